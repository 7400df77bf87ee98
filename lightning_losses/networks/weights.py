"""Weights from files that are never unpickled."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_losses.environment.file_digests import check_digest


def load_weights(path: str | Path, network: nn.Module, prefix: str = "network.") -> nn.Module:
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
        ValueError: no such file, one that was changed since it was written, or one that holds more than tensors and
            plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"read_weights: there is no file {path}; give a .ckpt, .pt or .safetensors file.")
    try:
        check_digest(path)
    except ValueError as error:
        raise ValueError(f"read_weights: {error} Give another copy of it.") from None
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
