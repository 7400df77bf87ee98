"""Counts the samples of each class once, for every loss and calibrator that takes class counts."""

from dataclasses import field
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_losses.callbacks.access import sum_over_processes
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.data.class_counts import count_classes, targets_of
from lightning_losses.data.loading import named, share_of_training_set
from lightning_losses.losses.class_prior import tell_class_counts
from lightning_losses.numerics.settings import Count
from lightning_losses.objective.ignored_targets import ignored_targets


class ClassCounts(DeclaredCallback):
    """Counts the classes of the training set when training begins, and tells every `ClassPrior` of the module.

    Every sample counts once, whatever a sampler does, and all processes have the counts of the whole set. A data set
    that holds its targets is asked for these alone (`targets_of`); of another one every sample is loaded once, each
    process its share. Probabilities add their mass, and a target that the module's losses ignore counts nothing. The
    counts are in the checkpoint, and a resumed run counts nothing again.

    A calibrator of another callback, such as `PostHocCalibration(LogitAdjuster)`, and the monitor `ShotAccuracyMonitor`
    are told too. Counts that a loss was given by its constructor stay. A module without a `ClassPrior` is counted too,
    so that other callbacks can read `counts`.

    Args:
        num_classes: C; for None what the trainer's data module says, or the largest class and those below it.
        batch_size: of the pass, where the data set holds no targets.

    Attributes:
        counts: [C] the samples of each class, or their mass, in float64; None before training begins.

    Raises:
        ValueError: when training begins, data without a data set of known length, without a target, or with targets
            outside of the classes.

    Example:
        >>> ClassCounts(num_classes=10).counts is None
        True
    """

    name = "ClassCounts"
    kept = ("counts",)

    num_classes: Count | None = None
    batch_size: Count = 256
    counts: Tensor | None = field(init=False, default=None)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count before the sanity check, whose validation steps may evaluate the losses."""
        trainer.fit_loop.setup_data()
        self.on_train_start(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count, unless that is done or a checkpoint brought the counts, and tell the losses."""
        if self.counts is None:
            counts = self._counted(trainer, pl_module)
            if not float(counts.sum()) > 0:
                raise ValueError(f"{self.name}: no sample of the training set has a target; give data with targets.")
            self.counts = counts
        tell_class_counts(pl_module, self.counts)
        callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
        for callback in callbacks:
            for part in (getattr(callback, name, None) for name in ("calibrator", "class_prior")):
                if isinstance(part, nn.Module):
                    tell_class_counts(part, self.counts)

    def _counted(self, trainer: L.Trainer, module: L.LightningModule) -> Tensor:
        classes = self.num_classes or getattr(getattr(trainer, "datamodule", None), "num_classes", None)
        remedy = "give a DataLoader, or the losses class_counts=[...]"
        share = share_of_training_set(self.name, trainer, self.batch_size, remedy=remedy)
        ignored = ignored_targets(module)
        held = targets_of(share.dataset)
        if held is not None:
            return count_classes(self.name, [held], classes, ignored)
        own = count_classes(
            self.name, (torch.as_tensor(named(self.name, batch)["target"]) for batch in share), classes, ignored
        )
        return _sum_of_unlike_lengths(trainer, module, own)


def _sum_of_unlike_lengths(trainer: L.Trainer, module: L.LightningModule, own: Tensor) -> Tensor:
    """The sum over processes, of which each may have seen another largest class."""
    lengths = torch.zeros(trainer.world_size, device=module.device)
    lengths[trainer.global_rank] = len(own)
    longest = int(sum_over_processes(trainer, lengths).max())
    dtype = torch.float32 if module.device.type == "mps" else torch.float64
    padded = torch.zeros(longest, dtype=dtype, device=module.device)
    padded[: len(own)] = own.to(padded)
    return sum_over_processes(trainer, padded).cpu().double()
