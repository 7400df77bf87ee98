"""Updates the class centroids of `MCMI` from the network's predictions, and logs the information."""

from dataclasses import field
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from lightning_losses.callbacks.access import evaluation_mode, step_logits, sum_over_processes
from lightning_losses.callbacks.calibration.evaluation_logits import on_the_device
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.data.loading import share_of_training_set
from lightning_losses.environment.logged_means import log_means
from lightning_losses.losses.distillation.logits.mcmi import MCMI, class_centroids, class_sums
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import class_indices, labelled_rows
from lightning_losses.numerics.settings import Share
from lightning_losses.objective.ignored_targets import ignored_targets


class ClassCentroids(DeclaredCallback):
    """Sets the centroids of every `MCMI` of a module to each class's mean prediction.

    The first centroids come from one pass over the training set before training, with the network in evaluation mode.
    The network must already be trained: it is a teacher whose training goes on. Then "once" keeps these centroids, as
    the authors' code does; "epoch" sets them after every epoch to the mean predictions of its steps; "ema" moves them
    towards each batch's means. Means are over all processes; a class without samples keeps its centroid.

    Logs ``train/cmi``, the conditional mutual information of each batch under the present centroids. A module without
    an `MCMI` is left alone, because a run's callbacks also accompany the training of its teacher.

    Args:
        refresh: "once", "epoch" or "ema".
        decay: decay of the moving average of "ema", in [0, 1].

    Raises:
        ValueError: options out of range; when training begins, a data set of unknown length.

    Example:
        >>> ClassCentroids(refresh="once").refresh
        'once'
    """

    name = "ClassCentroids"
    # Whether the first centroids are set (the loss holds them), and the sums of the unfinished epoch.
    kept = ("_begun", "_sums", "_counts")

    refresh: Literal["epoch", "once", "ema"] = "epoch"
    decay: Share = 0.9999
    _begun: bool = field(init=False, default=False)
    _sums: Tensor | None = field(init=False, default=None)
    _counts: Tensor | None = field(init=False, default=None)

    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pass over the training set and set the first centroids, unless they came from a checkpoint."""
        losses = self._losses(pl_module)
        if not losses or self._begun:
            return
        self._begun = True
        sums, counts = torch.zeros_like(losses[0].centroids), torch.zeros_like(losses[0].centroids[0])
        batch_size = getattr(trainer.train_dataloader, "batch_size", None)
        with evaluation_mode(pl_module):
            for batch in share_of_training_set(self.name, trainer, batch_size):
                batch = on_the_device(trainer, pl_module, batch)
                kept = labelled_rows(batch["target"], *ignored_targets(pl_module))
                target = class_indices(batch["target"][kept])
                more, seen = class_sums(pl_module(batch["inputs"]).float()[kept], target)
                sums, counts = sums + more, counts + seen
        self._set(trainer, losses, sums, counts)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin new sums."""
        self._sums = self._counts = None

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add this step's predictions."""
        if not (losses := self._losses(pl_module)):
            return
        logits, target = step_logits("ClassCentroids", pl_module, outputs)
        information = -reduce(losses[0].rows(losses[0].given(logits, target)))
        log_means(pl_module, {"train/cmi": information}, len(target), on_step=False, on_epoch=True)
        # Leave out infinite or NaN rows, which `NumericsGuard` may skip too; -inf is a mask.
        sound = (logits < torch.inf).all(dim=-1)
        sums, counts = class_sums(logits.float()[sound], target[sound])
        if self.refresh == "epoch":
            # After loading a checkpoint they are on the host.
            self._sums = sums if self._sums is None else self._sums.to(sums) + sums
            self._counts = counts if self._counts is None else self._counts.to(counts) + counts
        elif self.refresh == "ema":
            self._set(trainer, losses, sums, counts, 1 - self.decay)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the centroids."""
        if self._sums is not None and self._counts is not None:
            self._set(trainer, self._losses(pl_module), self._sums, self._counts)

    def _set(self, trainer: L.Trainer, losses: list[MCMI], sums: Tensor, counts: Tensor, share: float = 1.0) -> None:
        sums, counts = sum_over_processes(trainer, sums), sum_over_processes(trainer, counts)
        for loss in losses:
            means = class_centroids(sums, counts, loss.centroids).to(loss.centroids)
            loss.centroids.lerp_(means, share)

    def _losses(self, module: L.LightningModule) -> list[MCMI]:
        return [loss for loss in module.modules() if isinstance(loss, MCMI)]
