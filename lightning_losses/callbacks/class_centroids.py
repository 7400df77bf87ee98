"""Refreshes the class centroids of `MCMI` from what the network predicts in training, and logs the information."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_losses.callbacks.access import step_logits, sum_over_processes
from lightning_losses.losses.distillation.mcmi import MCMI, class_centroids, class_sums, mcmi_loss
from lightning_losses.tensors import check_choice


class ClassCentroids(Callback):
    """Sets the centroids of every `MCMI` of a module to each class's mean prediction over an epoch.

    Logs ``train/cmi``, the conditional mutual information of each batch by the centroids of the moment.

    Args:
        refresh: "epoch" after every training epoch; "once" after the first.

    Raises:
        ValueError: an unknown refresh; when training begins, a module without an `MCMI`.

    Example:
        >>> ClassCentroids(refresh="once").refresh
        'once'
    """

    def __init__(self, refresh: str = "epoch") -> None:
        check_choice("ClassCentroids", "refresh", refresh, ("epoch", "once"))
        self.refresh = refresh
        self._sums: Tensor | None = None
        self._counts: Tensor | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that there is something to refresh."""
        if not self._losses(pl_module):
            raise ValueError(
                f"ClassCentroids: {type(pl_module).__name__} has no MCMI loss; use objective=mcmi, or leave this "
                "callback out."
            )

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin new sums."""
        self._sums = self._counts = None

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add this step's predictions."""
        logits, target = step_logits("ClassCentroids", outputs)
        sums, counts = class_sums(logits.float(), target)
        self._sums = sums if self._sums is None else self._sums + sums
        self._counts = counts if self._counts is None else self._counts + counts
        information = -mcmi_loss(logits, target, self._losses(pl_module)[0].centroids)
        pl_module.log("train/cmi", information, on_step=False, on_epoch=True, batch_size=len(target))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the centroids."""
        if self._sums is None or self._counts is None or (self.refresh == "once" and trainer.current_epoch > 0):
            return
        sums, counts = sum_over_processes(trainer, self._sums), sum_over_processes(trainer, self._counts)
        for loss in self._losses(pl_module):
            loss.centroids.copy_(class_centroids(sums, counts, loss.centroids))

    def _losses(self, module: L.LightningModule) -> list[MCMI]:
        return [loss for loss in module.modules() if isinstance(loss, MCMI)]
