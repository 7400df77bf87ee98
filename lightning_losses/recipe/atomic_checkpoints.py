"""Checkpoints that are replaced whole or not at all, and read without unpickling."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO


class AtomicCheckpoints(TorchCheckpointIO):
    """A Trainer plugin: a checkpoint is complete on disk before it takes its name.

    Whatever happens while one is written, the file of that name is a whole checkpoint, the new one or the one before.
    Reading restores tensors and plain values alone.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write beside the target, flush to disk, then take the target's name."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain values; anything else in the file is refused."""
        return super().load_checkpoint(path, map_location or _stay, weights_only=True)


def _stay(storage: Any, location: str) -> Any:
    return storage
