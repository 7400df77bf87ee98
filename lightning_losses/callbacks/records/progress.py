"""A progress bar with the name of the network that is trained."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeElapsedColumn

from lightning_losses.environment.lightning_internals import describe_epochs

# The names shown for logged metrics.
_SHOWN = {"train/loss": "loss", "train/objective": "objective", "val/accuracy": "accuracy", "val/ece": "ECE"}


class Progress(RichProgressBar):
    """Lightning's rich bar, with the network's name, epochs counted from 1, and the latest epoch's main metrics.

    Args:
        label: the name of the network.
    """

    def __init__(self, label: str) -> None:
        # Without a terminal the width is unknown; 120 columns hold everything.
        super().__init__(console_kwargs=None if Console().is_terminal else {"width": 120})
        self.label = label
        describe_epochs(self, self.describe)

    def configure_columns(self, trainer: L.Trainer) -> list[ProgressColumn]:
        """The columns: the label, the progress of the epoch, and the time."""
        return [TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn()]

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The metrics after the latest complete epoch."""
        metrics = trainer.callback_metrics
        return {short: f"{float(metrics[name]):.3f}" for name, short in _SHOWN.items() if name in metrics}

    def describe(self, current_epoch: int) -> str:
        """The label and the epoch."""
        epochs = self.trainer.max_epochs
        return f"{self.label}, epoch {current_epoch + 1}" + (f"/{epochs}" if epochs and epochs > 0 else "")
