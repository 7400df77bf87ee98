"""Makes what is random in an epoch depend on the seed and the epoch alone."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class EpochSeed(Callback):
    """Seeds Python, numpy and torch before every epoch's first batch, from `seed`, the epoch and the process.

    Dropout and augmentation on the device then draw the same numbers in a resumed run as in an uninterrupted one.
    (Not at the start of the epoch: Lightning leaves that hook out where a run resumes, and loaders draw after it.)

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed for this epoch, before its first batch."""
        if batch_idx > 0:
            return
        state = np.random.SeedSequence((self.seed, trainer.current_epoch, trainer.global_rank)).generate_state(3)
        python, array, tensor = (int(value) for value in state)
        random.seed(python)
        np.random.seed(array)
        torch.manual_seed(tensor)
