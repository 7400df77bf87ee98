"""Makes what is random in an epoch depend on the seed and the epoch alone."""

import random

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class EpochSeed(Callback):
    """Seeds Python, numpy and torch at the start of every epoch, from `seed`, the epoch and the process.

    Dropout and augmentation then draw the same numbers in a resumed run as in an uninterrupted one.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seed for this epoch."""
        state = np.random.SeedSequence((self.seed, trainer.current_epoch, trainer.global_rank)).generate_state(3)
        python, array, tensor = (int(value) for value in state)
        random.seed(python)
        np.random.seed(array)
        torch.manual_seed(tensor)
