"""Gives `NDLoss` the teacher's mean feature of each class, from one pass over the training set."""

from typing import Any

import lightning as L
import torch

from lightning_losses.callbacks.access import sum_over_processes
from lightning_losses.callbacks.calibration.evaluation_logits import on_the_device
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.data.loading import share_of_training_set
from lightning_losses.losses.distillation.features.nd_loss import NDLoss
from lightning_losses.numerics.rows import class_indices, labelled_rows
from lightning_losses.numerics.settings import Count
from lightning_losses.objective.ignored_targets import ignored_targets


class ClassMeans(DeclaredCallback):
    """Sets the class means of every `NDLoss` of a module from the teacher's features, when training begins.

    Every sample of the training set counts once, in the data set's own order, independently of the sampler. With
    several processes each takes its share of the samples, and the sums are added. Data sets that augment give one view
    of each sample. A module without an `NDLoss` is left alone, because a run's callbacks also accompany the training of
    its teacher.

    Args:
        batch_size: batch size of the pass, at least 1.

    Raises:
        ValueError: when training begins, an `NDLoss` in a module without a teacher, a data set of unknown length, or a
            class without samples.

    Example:
        >>> ClassMeans(batch_size=64).batch_size
        64
    """

    name = "ClassMeans"

    batch_size: Count = 256

    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pass over the training set and set the means."""
        losses = [loss for loss in pl_module.modules() if isinstance(loss, NDLoss)]
        if not losses:
            return
        if not hasattr(pl_module, "teacher_tensors"):
            raise ValueError(
                f"ClassMeans: {type(pl_module).__name__} has an NDLoss but no teacher; give it DistillationMixin."
            )
        module: Any = pl_module
        total: Any = None
        counts: Any = None
        remedy = "give a DataLoader, or set the means by NDLoss.set_class_means"
        for batch in share_of_training_set(self.name, trainer, self.batch_size, remedy=remedy):
            batch = on_the_device(trainer, pl_module, batch)
            features = module.teacher_tensors(batch)["teacher_features"].double()
            if total is None:
                total = features.new_zeros(losses[0].num_classes, features.shape[-1])
                counts = features.new_zeros(losses[0].num_classes)
            known = labelled_rows(batch["target"], *ignored_targets(pl_module))
            target, features = class_indices(batch["target"][known]), features[known]
            total.index_add_(0, target, features)
            counts.index_add_(0, target, torch.ones_like(features[:, 0]))
        means = sum_over_processes(trainer, total) / sum_over_processes(trainer, counts).clamp(min=1).unsqueeze(-1)
        for loss in losses:
            loss.set_class_means(means.to(losses[0].class_means.dtype))
