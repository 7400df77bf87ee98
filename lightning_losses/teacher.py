"""Where a teacher comes from: timm, a checkpoint, or a cache of its logits. Files are never unpickled."""

import difflib
import hashlib
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_losses.environment.extras import require


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
        self.register_buffer("logits", logits.detach())

    def forward(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch classes"]:
        """The logits of the samples at these positions of the training set."""
        return self.logits[index]

    @property
    def layers(self) -> list[str]:
        """The layers whose features the cache holds."""
        return []

    def features(
        self, index: Int[Tensor, " batch"], layer: str | Sequence[str] | None = None
    ) -> dict[str, Float[Tensor, "batch ..."]]:
        """What layers put out for these samples: those named, or all that the cache holds.

        Raises:
            ValueError: a layer that is not in the cache, or none there.
        """
        chosen = self.layers if layer in (None, "all") else [layer] if isinstance(layer, str) else list(layer or ())
        if not chosen or (missing := [name for name in chosen if name not in self.layers]):
            raise ValueError(
                f"{type(self).__name__}: the features of {(chosen and missing) or 'a layer'} are asked for, but the "
                f"cache holds those of {self.layers}; make one by cache_teacher(..., layers=[...])."
            )
        return {name: self.feature(index, name) for name in chosen}

    def feature(self, index: Int[Tensor, " batch"], layer: str) -> Float[Tensor, "batch ..."]:
        """What a layer put out for these samples; a cache of logits alone has none."""
        raise KeyError(layer)

    def save(self, path: str | Path) -> None:
        """Write the cache as safetensors, with a checksum; it takes its name when all of it is on disk."""
        logits, path = self.logits.contiguous().cpu(), Path(path)
        partial = path.with_name(f".{path.name}.partial")
        try:
            save_file({"logits": logits}, partial, metadata={"sha256": _digest(logits)})
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "CachedLogits":
        """Read a cache that `save` wrote.

        Raises:
            ValueError: something else, or a file that was changed.
        """
        weights = read_weights(path)
        if set(weights) != {"logits"}:
            raise ValueError(
                f"CachedLogits: {path} holds {sorted(weights)[:5]}; a cache of logits holds 'logits' alone."
            )
        with safe_open(path, framework="pt") as file:
            checksum = (file.metadata() or {}).get("sha256")
        if checksum != _digest(weights["logits"]):
            raise ValueError(f"CachedLogits: {path} is not what was written; make the cache anew.")
        return cls(weights["logits"])


def timm_teacher(name: str, num_classes: int, **options: Any) -> nn.Module:
    """A timm network as teacher.

    Args:
        name: a name that `timm.list_models()` lists.
        num_classes: the number of classes of its head.
        **options: handed to `timm.create_model` (`in_chans`, `img_size`, `checkpoint_path`, ...); `pretrained` is False
            unless given, since weights come over the network.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: a name that timm does not know; the message lists the nearest.
    """
    require("timm_teacher", "timm")
    import timm

    if name.split(".")[0] not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise ValueError(
            f"timm_teacher: timm has no model '{name}'; "
            + (f"near it are {', '.join(near)}." if near else "timm.list_models() lists them.")
        )
    # Read here, since some of timm's versions would unpickle it.
    checkpoint = options.pop("checkpoint_path", None)
    network: nn.Module = timm.create_model(name, num_classes=num_classes, **{"pretrained": False, **options})
    return network if not checkpoint else checkpoint_teacher(checkpoint, network)


def checkpoint_teacher(path: str | Path, network: nn.Module, prefix: str = "network.") -> nn.Module:
    """Load the weights of a Lightning checkpoint, a state dict or a safetensors file into a network.

    Args:
        path: a `.ckpt`, `.pt` or `.safetensors` file.
        network: the network whose weights the file holds.
        prefix: the attribute under which the LightningModule held the network; a file without it is taken whole.

    Raises:
        ValueError: a file that needs unpickling, or weights that don't fit the network.
    """
    weights = read_weights(path)
    if any(name.startswith(prefix) for name in weights):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"checkpoint_teacher: the weights in {path} don't fit {type(network).__name__}; build the "
            f"network as it was trained. {error}"
        ) from None
    return network


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file or of a checkpoint, read without running anything that the file holds.

    Raises:
        ValueError: no such file, or one that holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"read_weights: there is no file {path}; give a .ckpt, .pt or .safetensors file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"read_weights: {path} was refused, because it holds Python objects that only unpickling "
            "could restore, and that can run any code; save the weights alone, as safetensors or by "
            f"torch.save(module.state_dict(), path) ({_first_line(error)})."
        ) from None
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(
            f"read_weights: {path} is no readable checkpoint ({_first_line(error)}); it may be truncated."
        ) from None
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(weights, Mapping) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ValueError(
            f"read_weights: {path} holds no state dict; give a Lightning checkpoint or a saved module.state_dict()."
        )
    return weights


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _digest(tensor: Tensor) -> str:
    content = f"{list(tensor.shape)} {tensor.dtype}".encode()
    return hashlib.sha256(content + tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
