"""A teacher that was evaluated once: its logits by sample."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_losses.environment.atomic_files import replacing
from lightning_losses.networks.weights import read_weights
from lightning_losses.numerics.probabilities import known_somewhere


class CachedLogits(nn.Module):
    """A teacher that was evaluated once: logits by the samples' `index`.

    Args:
        logits: [n, C] the teacher's logits of every sample of the training set.

    Example:
        >>> CachedLogits(torch.eye(3))(torch.tensor([2, 0])).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    logits: Tensor

    def __init__(self, logits: Float[Tensor, "samples classes"]) -> None:
        super().__init__()
        if logits.ndim != 2 or not logits.is_floating_point():
            raise ValueError(
                f"CachedLogits: logits of shape {list(logits.shape)} and dtype {logits.dtype} came; give "
                "floating-point [n, C]."
            )
        self.register_buffer("logits", logits.detach().clone())

    def forward(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch classes"]:
        """The logits of the samples at these positions of the training set."""
        check_positions(type(self).__name__, index, len(self.logits))
        return self.logits[index]

    @property
    def layers(self) -> list[str]:
        """The layers whose features the cache holds."""
        return []

    def features(
        self, index: Int[Tensor, " batch"], layer: str | Sequence[str] | None = None
    ) -> dict[str, Float[Tensor, "batch ..."]]:
        """The outputs of layers for these samples: of the named ones, or of all that the cache holds.

        Raises:
            ValueError: a layer that is not in the cache, or a cache without layers.
        """
        chosen = self.layers if layer in (None, "all") else [layer] if isinstance(layer, str) else list(layer or ())
        if not chosen or (missing := [name for name in chosen if name not in self.layers]):
            raise ValueError(
                f"{type(self).__name__}: the features of {(chosen and missing) or 'a layer'} are asked for, but the "
                f"cache holds those of {self.layers}; make one by cache_teacher(..., layers=[...])."
            )
        return {name: self.feature(index, name) for name in chosen}

    def feature(self, index: Int[Tensor, " batch"], layer: str) -> Float[Tensor, "batch ..."]:
        """The output of a layer for these samples; a cache of logits alone has none."""
        raise KeyError(layer)

    def save(self, path: str | Path) -> None:
        """Write the cache as safetensors, with a checksum; the file appears only when it is complete."""
        logits, path = self.logits.contiguous().cpu(), Path(path)
        with replacing(path) as partial:
            save_file({"logits": logits}, partial, metadata={"sha256": _digest(logits)})

    @classmethod
    def load(cls, path: str | Path) -> "CachedLogits":
        """Read a cache that `save` wrote.

        Raises:
            ValueError: another kind of file, or a file that was changed.
        """
        weights = read_weights(path)
        if set(weights) != {"logits"}:
            raise ValueError(
                f"CachedLogits: {path} holds {sorted(weights)[:5]}; a cache of logits holds 'logits' alone."
            )
        with safe_open(path, framework="pt") as file:
            checksum = (file.metadata() or {}).get("sha256")
        if checksum != _digest(weights["logits"]):
            raise ValueError(f"CachedLogits: {path} was changed since it was written; make the cache anew.")
        return cls(weights["logits"])


def check_positions(name: str, index: Int[Tensor, " batch"], samples: int | None = None) -> None:
    """Raise ``ValueError`` for positions that are none of a cache's, if it can be known for free, and for a mask.

    Torch counts positions below 0 from the end, and takes uint8 for a mask too.

    Args:
        name: the name that errors begin with.
        index: the positions.
        samples: how many the cache holds; None where it grows.
    """
    if index.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name}: an index of dtype {index.dtype} came; give the samples' positions in int64.")
    if known_somewhere(index < 0):
        raise ValueError(f"{name}: index holds {int(index.min())}; give the samples' positions, from 0 on.")
    if samples is not None and known_somewhere(index >= samples):
        raise ValueError(
            f"{name}: index holds {int(index.max())}, and the cache {samples} samples; make it anew of this training "
            "set, or give positions in the set that it was made of."
        )


def _digest(tensor: Tensor) -> str:
    content = f"{list(tensor.shape)} {tensor.dtype}".encode()
    return hashlib.sha256(content + tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
