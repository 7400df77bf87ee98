"""Reads the logits and features by sample that `cache_teacher` wrote, from mapped files."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.teachers.cached_logits import CachedLogits, check_positions

MANIFEST = "cache.json"
# The prefix of a layer's file name.
FEATURES = "features."


def load_cached_teacher(path: str | Path, *, verify: bool = True) -> "MappedLogits":
    """A cache of `cache_teacher` as a teacher that reads by the samples' `index`; its files stay on disk.

    Args:
        path: the cache's folder.
        verify: read the files once to compare their checksums.

    Raises:
        ValueError: no complete cache in the folder; a file that was changed.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        there = ", ".join(sorted(file.name for file in path.iterdir())) if path.is_dir() else "no such folder"
        raise ValueError(
            f"load_cached_teacher: {path} holds no complete cache: there is {there or 'nothing'}, and no {MANIFEST}; "
            "make it with cache_teacher, which returns its folder."
        )
    if (damaged := damaged_file(path, verify=verify)) is not None:
        raise ValueError(
            f"load_cached_teacher: {damaged} was changed since it was written; cache_teacher makes the cache anew."
        )
    manifest = json.loads((path / MANIFEST).read_text())
    # Copy on write: torch requires writable arrays, and the file must not change.
    arrays = {Path(name).stem: np.load(path / name, mmap_mode="c", allow_pickle=False) for name in manifest["files"]}
    return MappedLogits({name: torch.from_numpy(array) for name, array in arrays.items()})


class MappedLogits(CachedLogits):
    """A teacher's logits and features by `index`, read from memory-mapped files on demand.

    Args:
        arrays: "logits" [n, C]; or "value" [n, k], "classes" [n, k], "rest" [n] and "num_classes" [1]; and
            "features.<layer>" [n, ...], as `cache_teacher` writes them.

    Example:
        >>> MappedLogits({"logits": torch.eye(3)})(torch.tensor([2, 0])).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        nn.Module.__init__(self)
        # Not buffers, which would be moved to the device whole and saved in checkpoints.
        self.__dict__["_arrays"] = dict(arrays)

    def __len__(self) -> int:
        return len(next(self._arrays[name] for name in ("logits", "value") if name in self._arrays))

    @property
    def _arrays(self) -> dict[str, Tensor]:
        arrays: dict[str, Tensor] = self.__dict__["_arrays"]
        return arrays

    def forward(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch classes"]:
        """The logits of the samples at these positions of the data set, on the index's device."""
        rows = index.cpu()
        check_positions(type(self).__name__, rows, len(self))
        if "logits" in self._arrays:
            return self._arrays["logits"][rows].to(index.device)
        value, classes = self._arrays["value"][rows], self._arrays["classes"][rows].long()
        rest = self._arrays["rest"][rows].unsqueeze(-1).expand(-1, int(self._arrays["num_classes"]))
        return rest.scatter(-1, classes, value).to(index.device)

    @property
    def layers(self) -> list[str]:
        """The layers whose features the cache holds."""
        return [name.removeprefix(FEATURES) for name in self._arrays if name.startswith(FEATURES)]

    def feature(self, index: Int[Tensor, " batch"], layer: str) -> Float[Tensor, "batch ..."]:
        """The output of a layer for these samples.

        Raises:
            ValueError: a layer that is not in the cache.
        """
        if layer not in self.layers:
            there = ", ".join(self.layers) or "logits alone"
            raise ValueError(
                f"MappedLogits: the cache has no layer {layer!r}; it has {there}: give the layer to cache_teacher."
            )
        rows = index.cpu()
        check_positions(type(self).__name__, rows, len(self))
        return self._arrays[f"{FEATURES}{layer}"][rows].to(index.device)


def damaged_file(home: Path, *, verify: bool = True) -> Path | None:
    """The first file of a cache that has changed since it was written; None if there is none."""
    try:
        manifest = json.loads((home / MANIFEST).read_text())
        if manifest.pop("sha256") != manifest_sum(manifest):
            return home / MANIFEST
        for name, checksum in manifest["files"].items():
            if not (home / name).is_file() or (verify and file_sum(home / name) != checksum):
                return home / name
    except (OSError, ValueError, KeyError, AttributeError):
        return home / MANIFEST
    return None


def manifest_sum(manifest: dict[str, Any]) -> str:
    """The checksum in a manifest of its own content."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def file_sum(file: Path) -> str:
    """The checksum of a file of a cache."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
