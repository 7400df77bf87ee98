"""Keeps every metric of every epoch, also across an interruption."""

import time
from dataclasses import field

import lightning as L

from lightning_losses.callbacks.declared import DeclaredCallback


class History(DeclaredCallback):
    """Keeps each epoch's metrics and the seconds of training, as plain values in the checkpoint.

    Attributes:
        metrics: the values after each epoch, by the metric's name.
        seconds: the time of training so far, without the unfinished epoch before an interruption.
    """

    kept = ("metrics", "seconds")

    metrics: dict[str, list[float]] = field(init=False, default_factory=dict)
    seconds: float = field(init=False, default=0.0)
    _since: float | None = field(init=False, default=None)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the epoch's metrics and its seconds."""
        for name, value in trainer.callback_metrics.items():
            self.metrics.setdefault(name, []).append(float(value))
        now = time.perf_counter()
        self.seconds += now - (self._since or now)
        self._since = now
