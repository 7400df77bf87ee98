"""Loads weights from files without unpickling."""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_losses.environment.file_digests import check_digest

# Parts that torch.compile, FSDP, activation checkpointing and Fabric insert anywhere into names.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# The prefix of all names by DDP and torch.optim.swa_utils.AveragedModel, and the latter's counter.
_AROUND, _COUNT = "module.", "n_averaged"

Kind = TypeVar("Kind")


def load_weights(path: str | Path, network: nn.Module, prefix: str = "network.") -> nn.Module:
    """Load the weights of a Lightning checkpoint, a state dict or a safetensors file into a network.

    Additions to the names of weights by torch.compile, DDP, FSDP, Fabric, activation checkpointing and weight averaging
    are ignored, in the file and in the network.

    Args:
        path: a `.ckpt`, `.pt` or `.safetensors` file.
        network: the network whose weights the file holds.
        prefix: the attribute of the LightningModule that held the network; a file without this prefix is loaded whole.

    Raises:
        ValueError: a file that needs unpickling, or weights that don't fit the network; the message names the prefixes
            that fit, or all of them.
    """
    weights = _unwrapped(read_weights(path))
    there = weights
    if any(name.startswith(prefix) for name in weights):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        weights = _unwrapped(weights)
    # The network may be wrapped too.
    own = _unwrapped({name: name for name in network.state_dict()})
    try:
        network.load_state_dict({own.get(name, name): tensor for name, tensor in weights.items()})
    except RuntimeError as error:
        raise ValueError(
            f"checkpoint_teacher: the weights in {path} don't fit {type(network).__name__}; "
            f"{_remedy(there, own)} ({' '.join(str(error).split())})."
        ) from None
    return network


def copy_weights(owner: str, source: nn.Module, network: nn.Module) -> None:
    """Give a network the weights of another with the same layers.

    Args:
        owner: the name in errors.
        source: the trained network.
        network: the one that continues from it.

    Raises:
        ValueError: weights that don't fit.

    Example:
        >>> source, network = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> copy_weights("example", source, network)
        >>> bool(torch.equal(source.weight, network.weight))
        True
    """
    try:
        network.load_state_dict(source.state_dict())
    except RuntimeError:
        raise ValueError(
            f"{owner}: the weights of a {type(source).__name__} don't fit the {type(network).__name__} "
            "that continues from them; give both the same layers."
        ) from None


def _plain(name: str) -> str:
    """A weight's name without the parts that wrappers insert."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _unwrapped(weights: Mapping[str, Kind]) -> dict[str, Kind]:
    """Weights, or their names, by plain names, without a wrapper's common prefix."""
    plain = {_plain(name): tensor for name, tensor in weights.items() if name != _COUNT}
    while plain and all(name.startswith(_AROUND) for name in plain):
        plain = {name.removeprefix(_AROUND): tensor for name, tensor in plain.items()}
    return plain


def _remedy(weights: Mapping[str, Tensor], own: Iterable[str]) -> str:
    """The advice for weights that don't fit: the prefix that contains all names of the network, if there is one."""
    names = list(own)
    ends = [name.removesuffix(names[0]) for name in weights if names and name.endswith(f".{names[0]}")]
    fitting = [prefix for prefix in ends if all(prefix + name in weights for name in names)]
    if fitting:
        return f"its names are under {' and '.join(fitting)}: give prefix={fitting[0]!r}"
    first = dict.fromkeys(f"{name.partition('.')[0]}." for name in weights if "." in name)
    found = f", whose prefixes are {', '.join(first)}" if first else ""
    return f"build the network as it was trained, or give the prefix of its weights in the file{found}"


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file or a checkpoint, read without running code from the file.

    Raises:
        ValueError: a file that doesn't exist, was changed since it was written, or holds more than tensors and plain
            values.
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
