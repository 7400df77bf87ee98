"""Checkpoints that are replaced atomically and read without unpickling."""

import errno
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from lightning_losses.checkpoints.interruption import leave_together
from lightning_losses.environment.atomic_files import replacing
from lightning_losses.environment.file_digests import announce, check_digest, digest_place
from lightning_losses.environment.lightning_internals import read_shards
from lightning_losses.parallel.sharded_folders import check_folder


class AtomicCheckpoints(TorchCheckpointIO):
    """A Trainer plugin: a checkpoint is complete on disk before it gets its name.

    Whatever happens during writing, the file of that name is always a complete checkpoint, the new one or the previous
    one. Its SHA-256 is kept beside it, and compared when it is read. Reading restores only tensors and plain values.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write beside the target, flush to disk, then rename to the target.

        Raises:
            OSError: the disk is full, or the folder can't be written to; the previous checkpoint stays.
        """
        # A Python stream, because torch's own writer hides the system's error.
        with replacing(Path(path)) as partial:
            with partial.open("wb") as stream:
                torch.save(checkpoint, stream)
            announce(Path(path), partial)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint and its digest."""
        # Absolute, because Lightning would treat local:///x as a place on this disk.
        super().remove_checkpoint(Path(path).absolute())
        digest_place(Path(path)).unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | str | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain values.

        Raises:
            ValueError: a file that holds anything else, was changed, or is no complete checkpoint.
        """
        try:
            check_digest(Path(path))
        except ValueError as error:
            raise ValueError(f"checkpoint: {error}") from None
        try:
            place: Any = map_location or _stay
            return super().load_checkpoint(path, place, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"checkpoint: {path} was refused, because it holds Python objects that only unpickling could restore, "
                f"and that can run any code ({str(error).splitlines()[0]})."
            ) from None
        except (
            RuntimeError,
            EOFError,
            LookupError,
            AssertionError,
            ValueError,
            TypeError,
            AttributeError,
            OSError,
        ) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                # Pass on the system's error, except for a position outside of the file: then the checkpoint is
                # incomplete.
                raise
            raise ValueError(
                f"checkpoint: {path} is no whole checkpoint ({(str(error).splitlines() or ['it is empty'])[0]})."
            ) from None


def write_on_all(trainer: L.Trainer, path: Path) -> None:
    """Write a trainer's checkpoint; if that fails, every process raises the error of the first one.

    Raises:
        OSError: the disk is full, or the folder can't be written to.
    """
    if trainer.world_size == 1:
        trainer.save_checkpoint(path, weights_only=False)
        return
    failure: tuple[int | None, str, str] | None = None
    try:
        trainer.save_checkpoint(path, weights_only=False)
    except OSError as error:
        failure = error.errno, error.strerror or str(error), str(error.filename or path)
        # The barrier at the end of `save_checkpoint`, where the others wait.
        trainer.strategy.barrier("Trainer.save_checkpoint")
    failure = trainer.strategy.broadcast(failure)
    if failure is not None:
        leave_together(trainer, "every process knows")
        raise OSError(*failure)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The whole of a checkpoint that this run wrote, from one file or a folder of shards.

    Raises:
        ValueError: a folder that holds anything but tensors and plain values, or is no complete checkpoint; a file that
            was changed.
    """
    if path.is_dir():
        check_folder(path)
        return read_shards(path)
    return AtomicCheckpoints().load_checkpoint(path, map_location="cpu")


def _stay(storage: Any, location: str) -> Any:
    return storage
