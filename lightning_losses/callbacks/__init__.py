"""Callbacks: one file per intervention or monitor."""

from lightning_losses.callbacks.epoch_seed import EpochSeed
from lightning_losses.callbacks.history import History
from lightning_losses.callbacks.last_checkpoint import LastCheckpoint
from lightning_losses.callbacks.progress import Progress

__all__ = ["EpochSeed", "History", "LastCheckpoint", "Progress"]
