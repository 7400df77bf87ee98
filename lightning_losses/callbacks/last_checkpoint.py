"""Leaves a checkpoint at the start and after every epoch, from which a run continues exactly."""

import math
import time
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` when training starts and after every epoch, and ``best.ckpt`` after the best one.

    A run that stops anywhere continues from its last whole epoch; the begun epoch is done again, so that the resumed
    run equals an uninterrupted one. Give the trainer `lightning_losses.recipe.AtomicCheckpoints`, which replaces a
    checkpoint only by a complete one.

    Args:
        folder: where the checkpoints go.
        monitor: the logged metric, larger is better, that decides which epoch is best (of equals, the first); None
            writes no ``best.ckpt``.
        seconds: the least time between two times of writing ``last.ckpt``, where epochs are shorter than their
            checkpoint is worth; the end is always written.
    """

    def __init__(self, folder: str | Path, monitor: str | None = None, seconds: float = 0.0) -> None:
        self.folder = Path(folder)
        self.monitor = monitor
        self.seconds = seconds
        self.best: float | None = None
        self._written = -math.inf
        self._due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the start, so that also an interruption of the first epoch leaves a checkpoint."""
        if trainer.global_step == 0:
            trainer.save_checkpoint(self.folder / "last.ckpt")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch that is done."""
        if self.monitor is not None:
            value = float(trainer.callback_metrics[self.monitor])
            if self.best is None or value > self.best:
                self.best = value
                trainer.save_checkpoint(self.folder / "best.ckpt")
        self._due = time.monotonic() - self._written < self.seconds
        if not self._due:
            trainer.save_checkpoint(self.folder / "last.ckpt")
            self._written = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last epoch, if its time had not come."""
        if self._due:
            trainer.save_checkpoint(self.folder / "last.ckpt")

    def state_dict(self) -> dict[str, float | None]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Go on comparing with the best value so far."""
        self.best = state_dict["best"]
