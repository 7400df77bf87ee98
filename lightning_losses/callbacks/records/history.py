"""Remembers every metric of every epoch, also across an interruption."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class History(Callback):
    """Keeps what is logged per epoch, and the seconds of training, in the checkpoint's plain values.

    Attributes:
        metrics: the value after each epoch by the metric's name.
        seconds: the time of training so far, without what went before an interruption's last whole epoch.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, list[float]] = {}
        self.seconds = 0.0
        self._since: float | None = None

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

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"metrics": {name: list(values) for name, values in self.metrics.items()}, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.metrics = {name: list(values) for name, values in state_dict["metrics"].items()}
        self.seconds = float(state_dict["seconds"])
