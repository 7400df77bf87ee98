"""Makes what is random in an epoch depend on the seed and the epoch alone."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class EpochSeed(Callback):
    """Seeds Python, numpy and torch before every epoch's first batch, from `seed`, the epoch and the process.

    Dropout and augmentation on the device then draw the same numbers in a resumed run as in an uninterrupted one; in
    one that goes on within an epoch too, since the checkpoint has the generators' states.
    (Not at the start of the epoch: Lightning leaves that hook out where a run resumes, and loaders draw after it.)

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._saved: dict[str, Any] | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed for this epoch before its first batch; within it, go on from a checkpoint's states."""
        saved, self._saved = self._saved, None
        if batch_idx > 0:
            if saved is not None:
                _restore(saved, pl_module.device)
            return
        state = np.random.SeedSequence((self.seed, trainer.current_epoch, trainer.global_rank)).generate_state(3)
        python, array, tensor = (int(value) for value in state)
        random.seed(python)
        np.random.seed(array)
        torch.manual_seed(tensor)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the generators' states, if one process is within an epoch: each has its own."""
        if trainer.world_size == 1 and trainer.fit_loop.batch_idx >= 0 and not trainer.is_last_batch:
            checkpoint["random_states"] = _states(pl_module.device)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the generators' states."""
        self._saved = checkpoint.get("random_states")


def _states(device: torch.device) -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, values, following = random.getstate()
    states: dict[str, Any] = {
        "python": (version, torch.tensor(values), following),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    return states


def _restore(states: dict[str, Any], device: torch.device) -> None:
    version, values, following = states["python"]
    random.setstate((version, tuple(values.tolist()), following))
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"].cpu())
    if "device" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["device"].cpu(), device)
