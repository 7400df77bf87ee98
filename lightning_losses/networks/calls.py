"""Calls any network, and finds the logits in its output."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import Tensor, nn

_NAMES = ("logits", "out")
_ANYTHING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def call(network: nn.Module, inputs: Any, **further: Any) -> Any:
    """A network's output; a mapping of inputs, such as tokens and their mask, is passed by name.

    A network whose `forward` names none of the mapping's keys gets the mapping itself. A network with a cache for
    generation is called without it, because with it transformers' networks don't separate packed documents.

    Args:
        network: any network.
        inputs: the network's input.
        **further: further keyword arguments.

    Raises:
        ValueError: a mapping with some keys that the network takes and some that it doesn't.

    Example:
        >>> import torch
        >>> call(nn.Linear(2, 1), {"input": torch.zeros(3, 2)}).shape
        torch.Size([3, 1])
    """
    if hasattr(network, "config") and names(network, "use_cache"):
        further = {"use_cache": False, **further}
    if not isinstance(inputs, Mapping):
        return network(inputs, **further)
    unknown = [name for name in inputs if not takes(network, name)]
    if len(unknown) == len(inputs):
        return network(inputs, **further)
    if unknown:
        raise ValueError(
            f"{type(network).__name__}: {', '.join(map(repr, inputs))} came as inputs, but its forward takes no "
            f"{' and no '.join(map(repr, unknown))}; leave out what it doesn't take."
        )
    return network(**{**further, **inputs})


def takes(network: nn.Module, name: Any) -> bool:
    """Whether a network accepts an argument of this name.

    Example:
        >>> takes(nn.Linear(2, 1), "input"), takes(nn.Linear(2, 1), "attention_mask")
        (True, False)
    """
    parameters = _parameters(network)
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return isinstance(name, str) and (not parameters or anything or names(network, name))


def names(network: nn.Module, name: str) -> bool:
    """Whether the `forward` of a network, or of the network that PEFT or torch.compile wraps, names an argument.

    Example:
        >>> names(nn.Linear(2, 1), "input")
        True
    """
    parameter = _parameters(network).get(name)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return parameter is not None and parameter.kind in by_name


def unwrapped(network: Any) -> Any:
    """The network that torch.compile or PEFT wraps, or the network itself."""
    network = getattr(network, "_orig_mod", network)
    return network.get_base_model() if callable(getattr(network, "get_base_model", None)) else network


@contextmanager
def in_evaluation(network: nn.Module) -> Iterator[None]:
    """Within this context the network is in evaluation mode, so that dropout draws no random numbers of the training.

    Example:
        >>> dropout = nn.Dropout()
        >>> with in_evaluation(dropout):
        ...     dropout.training
        False
        >>> dropout.training
        True
    """
    training = [part for part in network.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def for_graphs(value: Any) -> Any:
    """A copy of a tensor that was made in inference mode, which no graph can hold; anything else as it is.

    Example:
        >>> import torch
        >>> with torch.inference_mode():
        ...     made = torch.ones(2)
        >>> for_graphs(made).is_inference()
        False
    """
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _parameters(network: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The arguments of a `forward`; empty if they can't be read, for example of compiled code."""
    whole = unwrapped(network)
    try:
        parameters = inspect.signature(whole.forward).parameters
        if "forward" in vars(whole) and any(parameter.kind in _ANYTHING for parameter in parameters.values()):
            # A wrapper, such as that of activation checkpointing, passes on further arguments.
            return inspect.signature(MethodType(type(whole).forward, whole)).parameters
        return parameters
    except (TypeError, ValueError):
        return {}


def logits_of(who: str, output: Any) -> Tensor:
    """The logits in a network's output: a tensor, ``["logits"]``, ``["out"]``, ``.logits``, or the first of a tuple.

    Args:
        who: the name that errors begin with.
        output: the network's output.

    Raises:
        ValueError: an output without logits.

    Example:
        >>> import torch
        >>> logits_of("doc", {"out": torch.zeros(2, 3), "aux": torch.zeros(2, 3)}).shape
        torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        name = next((name for name in _NAMES if isinstance(output.get(name), Tensor)), None)
        if name is not None:
            return output[name]
        came = f"a mapping of {', '.join(map(repr, output)) or 'nothing'}"
    elif isinstance(named := getattr(output, "logits", None), Tensor):
        return named
    elif isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    else:
        came = f"a {type(output).__name__}"
    raise ValueError(
        f"{who} returned {came}, which holds no logits; return a tensor, a tuple that begins with it, or a "
        'mapping or object with "logits" (or "out").'
    )
