"""Folders of sharded checkpoints: found again after a kill, and refused if reading them could run code."""

import contextlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

# What an index is made of: records without code.
_RECORDS = {
    "builtins": {"set", "frozenset", "slice", "complex", "bytearray"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata"),
        *("ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
}
_INDEX = ".metadata"
_REST = "meta.pt"


class _Index(pickle.Unpickler):
    """Restores the records of an index, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = name in _RECORDS.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.layout)
        )
        if not known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def check_folder(folder: Path) -> None:
    """Raise if a folder of shards holds what only unpickling could restore; torch and Lightning unpickle all of it.

    The index may hold the records that torch writes, every other value tensors and plain values.

    Raises:
        ValueError: something else is there, or the folder is no whole checkpoint.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +ELLIPSIS
        ...     check_folder(Path(folder))
        Traceback (most recent call last):
        ValueError: checkpoint: ... is no whole checkpoint (No such file or directory).
    """
    try:
        # Beside the common one a process may have its own.
        for path in {folder / _INDEX, *folder.glob(f"*{_INDEX}")}:
            with path.open("rb") as stream:
                _check_values(folder, _Index(stream).load())
        if (folder / _REST).exists():
            torch.load(folder / _REST, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint: {folder} was refused, because it holds Python objects that only unpickling could restore, "
            f"and that can run any code ({str(error).splitlines()[0]})."
        ) from None
    except (OSError, RuntimeError, EOFError, AttributeError, TypeError, KeyError, IndexError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        why = why or next(iter(str(error).splitlines()), "it is empty")
        raise ValueError(f"checkpoint: {folder} is no whole checkpoint ({why}).") from None


def find_again(path: Path) -> None:
    """Give a checkpoint its name back, if a kill came between taking it from the old one and giving it to the new one.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / ".last.ckpt.previous").mkdir()
        ...     find_again(Path(folder) / "last.ckpt")
        ...     os.listdir(folder)
        ['last.ckpt']
    """
    if not path.exists():
        # Every process does so, and one succeeds.
        with contextlib.suppress(FileNotFoundError):
            os.replace(previous_name(path), path)


def previous_name(path: Path) -> Path:
    """What the last checkpoint is called while a new one takes its name."""
    return path.with_name(f".{path.name}.previous")


def _check_values(folder: Path, index: Any) -> None:
    if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
        raise pickle.UnpicklingError("its index is none")
    for key, place in index.storage_data.items():
        if Path(place.relative_path).name != place.relative_path:
            raise pickle.UnpicklingError(f"it points to {place.relative_path}, outside of it")
        # torch 2.6 has none, and compresses nothing.
        if getattr(place, "transform_descriptors", None):
            raise pickle.UnpicklingError("it is compressed")
        if isinstance(index.state_dict_metadata[key.fqn], BytesStorageMetadata):
            with (folder / place.relative_path).open("rb") as stream:
                stream.seek(place.offset)
                torch.load(io.BytesIO(stream.read(place.length)), map_location="cpu", weights_only=True)
