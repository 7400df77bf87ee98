"""Checkpoints that are replaced whole or not at all, and read without unpickling."""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO


class AtomicCheckpoints(TorchCheckpointIO):
    """A Trainer plugin: a checkpoint is complete on disk before it takes its name.

    Whatever happens while one is written, the file of that name is a whole checkpoint, the new one or the one before.
    Reading restores tensors and plain values alone.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write beside the target, flush to disk, then take the target's name.

        Raises:
            OSError: the disk is full, or the folder can't be written to; the checkpoint before stays.
        """
        with replacing(Path(path)) as stream:
            torch.save(checkpoint, stream)

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain values.

        Raises:
            ValueError: a file that holds anything else, or that is no whole checkpoint.
        """
        try:
            return super().load_checkpoint(path, map_location or _stay, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"checkpoint: {path} was refused, because it holds Python objects that only unpickling could restore, "
                f"and that can run any code ({str(error).splitlines()[0]})."
            ) from None
        except (RuntimeError, EOFError) as error:
            raise ValueError(
                f"checkpoint: {path} is no whole checkpoint ({(str(error).splitlines() or ['it is empty'])[0]})."
            ) from None


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content replaces a file when all of it is on disk; if anything fails, the file stays as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "new" / "file") as stream:
        ...         _ = stream.write(b"content")
        ...     (Path(folder) / "new" / "file").read_bytes()
        b'content'
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
        _flush_folder(path.parent)
    except BaseException as error:
        # What is half written would only take space from the next attempt.
        partial.unlink(missing_ok=True)
        cause = _cause(error)
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from None


def _cause(error: BaseException | None) -> OSError | None:
    """The system's error behind torch's: its writer puts one of its own on top."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _flush_folder(folder: Path) -> None:
    # The new name itself is on disk only when the folder is.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _stay(storage: Any, location: str) -> Any:
    return storage
