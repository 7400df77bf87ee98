"""Makes the random numbers of an epoch depend only on the seed and the epoch."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from lightning_losses.environment.random_states import RandomStates
from lightning_losses.parallel.processes import values_on_first


class EpochSeed(Callback):
    """Seeds Python, numpy and torch before every epoch's first batch, by `seed`, the epoch and the process.

    Dropout and augmentation on the device then draw the same numbers in a resumed run as in an uninterrupted one. That
    also holds for a run resumed within an epoch, because the checkpoint has the generators' states of each process.
    (The hook at the start of the epoch would be wrong: Lightning skips it in a resumed run, and loaders draw after it.)

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._saved: list[dict[str, Any]] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed for this epoch before its first batch; within the epoch, restore a checkpoint's states."""
        saved, self._saved = self._saved, []
        if batch_idx > 0:
            if len(saved) == trainer.world_size:
                _restore(saved[trainer.global_rank], pl_module.device)
            if len(saved) in (0, trainer.world_size):
                return
        # If another number of processes continues within an epoch, draw numbers that no process has drawn.
        place = (batch_idx,) if batch_idx > 0 else ()
        entropy = (self.seed, trainer.current_epoch, trainer.global_rank, *place)
        state = np.random.SeedSequence(entropy).generate_state(3)
        python, array, tensor = (int(value) for value in state)
        random.seed(python)
        np.random.seed(array)
        torch.manual_seed(tensor)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the states of every process's generators, if this is within an epoch."""
        if trainer.fit_loop.batch_idx >= 0 and not trainer.is_last_batch:
            checkpoint["random_states"] = values_on_first(_states(pl_module.device))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read the generators' states."""
        self._saved = checkpoint.get("random_states", [])


def _states(device: torch.device) -> dict[str, Any]:
    """The generators' states in plain values, as checkpoints hold them."""
    now = RandomStates.now(device)
    kind, keys, position, has_gauss, gauss = now.numpy
    version, values, following = now.python
    states: dict[str, Any] = {
        "python": (version, torch.tensor(values), following),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "torch": now.host,
    }
    return states if now.on_device is None else {**states, "device": now.on_device}


def _restore(states: dict[str, Any], device: torch.device) -> None:
    version, values, following = states["python"]
    kind, keys, position, has_gauss, gauss = states["numpy"]
    on_device = states["device"].cpu() if "device" in states and device.type == "cuda" else None
    RandomStates(
        (version, tuple(values.tolist()), following),
        (kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss),
        states["torch"].cpu(),
        device,
        on_device,
    ).restore()
