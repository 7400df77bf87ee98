"""Folders of sharded checkpoints: restored after a kill, refused if damaged or if reading could run code."""

import contextlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, TensorStorageMetadata

from lightning_losses.environment.atomic_files import write_text
from lightning_losses.environment.file_digests import file_digest

# The classes in an index: records without code.
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
# In the format of sha256sum.
_DIGESTS = "digests.sha256"


class _Index(pickle.Unpickler):
    """Unpickles only the records of an index."""

    def find_class(self, module: str, name: str) -> Any:
        known = name in _RECORDS.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.layout)
        )
        if not known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def check_folder(folder: Path, rank: int = 0, processes: int = 1) -> None:
    """Raise if a folder of shards is damaged, or contains objects that need unpickling.

    The index may contain torch's records; every other value must be a tensor or plain. If the folder has digests, the
    files are compared with them.

    Args:
        folder: the checkpoint's folder.
        rank: the rank of this process among those that share the comparison of digests.
        processes: the number of these processes.

    Raises:
        ValueError: anything else in the folder, an incomplete checkpoint, or a file that was changed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +ELLIPSIS
        ...     check_folder(Path(folder))
        Traceback (most recent call last):
        ValueError: checkpoint: ... is no whole checkpoint (No such file or directory).
    """
    _check_digests(folder, rank, processes)
    try:
        # A process may have its own index in addition to the common one.
        for path in {folder / _INDEX, *folder.glob(f"*{_INDEX}")}:
            _check_values(folder, _read_index(path))
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


def shapes_in(folder: Path) -> dict[str, Any]:
    """The contents of a checked folder in the form of a single file, with tensors on the meta device."""
    content: dict[str, Any] = torch.load(folder / _REST, map_location="meta", weights_only=True)
    tensors: dict[str, torch.Tensor] = {
        name: torch.empty(kept.size, dtype=kept.properties.dtype, device="meta")
        for name, kept in _read_index(folder / _INDEX).state_dict_metadata.items()
        if isinstance(kept, TensorStorageMetadata)
    }
    weights: dict[str, torch.Tensor] = {}
    optimizers: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part == "state_dict":
            weights[rest] = tensor
        elif rest.startswith("state."):
            parameter, _, moment = rest.removeprefix("state.").rpartition(".")
            states = optimizers.setdefault(part, {"state": {}, "param_groups": []})["state"]
            states.setdefault(parameter, {})[moment] = tensor
    return {**content, "state_dict": weights, "optimizer_states": list(optimizers.values())}


def digests_of(folder: Path, rank: int) -> dict[str, str]:
    """The SHA-256 of the files that this process wrote into a folder of shards, by name."""
    written = [*folder.glob(f"__{rank}_*")]
    if rank == 0:
        written += [folder / _INDEX, folder / _REST]
    return {path.name: file_digest(path) for path in written}


def write_digests(folder: Path, digests: dict[str, str]) -> None:
    """Write the digests of a folder's files into it, to detect damage before use."""
    write_text(folder / _DIGESTS, "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))


def find_again(path: Path) -> None:
    """Restore a checkpoint's name, if a kill came between renaming the old and the new one.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / ".last.ckpt.previous").mkdir()
        ...     find_again(Path(folder) / "last.ckpt")
        ...     os.listdir(folder)
        ['last.ckpt']
    """
    if not path.exists():
        # Every process tries, and one succeeds.
        with contextlib.suppress(FileNotFoundError):
            os.replace(previous_name(path), path)


def previous_name(path: Path) -> Path:
    """The name of the last checkpoint while a new one replaces it."""
    return path.with_name(f".{path.name}.previous")


def _read_index(path: Path) -> Any:
    with path.open("rb") as stream:
        return _Index(stream).load()


def _check_digests(folder: Path, rank: int, processes: int) -> None:
    place = folder / _DIGESTS
    if not place.is_file():
        # A folder of torch, or of an earlier version.
        return
    for line in place.read_text(errors="replace").splitlines()[rank::processes]:
        digest, _, name = line.partition("  ")
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise ValueError(f"checkpoint: {path} is missing, and {place} names it.")
        if file_digest(path) != digest:
            raise ValueError(f"checkpoint: {path} was changed since it was written: {place.name} has another digest.")


def _check_values(folder: Path, index: Any) -> None:
    if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
        raise pickle.UnpicklingError("its index is none")
    for key, place in index.storage_data.items():
        if Path(place.relative_path).name != place.relative_path:
            raise pickle.UnpicklingError(f"it points to {place.relative_path}, outside of it")
        # torch 2.6 lacks this attribute and never compresses.
        if getattr(place, "transform_descriptors", None):
            raise pickle.UnpicklingError("it is compressed")
        there = (folder / place.relative_path).stat().st_size
        if there < place.offset + place.length:
            raise EOFError(f"{place.relative_path} ends after {there} bytes")
        if isinstance(index.state_dict_metadata[key.fqn], BytesStorageMetadata):
            with (folder / place.relative_path).open("rb") as stream:
                stream.seek(place.offset)
                torch.load(io.BytesIO(stream.read(place.length)), map_location="cpu", weights_only=True)
