"""How a network of anybody's is called, and where its logits are in what it returns."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_NAMES = ("logits", "out")


def call(network: nn.Module, inputs: Any) -> Any:
    """A network's output; what is given as a mapping, such as the tokens and their mask, is given by name.

    Example:
        >>> import torch
        >>> call(nn.Linear(2, 1), {"input": torch.zeros(3, 2)}).shape
        torch.Size([3, 1])
    """
    return network(**inputs) if isinstance(inputs, Mapping) else network(inputs)


def logits_of(who: str, output: Any) -> Tensor:
    """The logits in a network's output: itself, its ``["logits"]``, ``["out"]`` or ``.logits``, the first of a tuple.

    Args:
        who: whose output it is: what errors begin with.
        output: what the network returned.

    Raises:
        ValueError: there are none.

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
        f"{who} returned {came}, in which there are no logits; return a tensor, a tuple that begins with it, or a "
        'mapping or object with "logits" (or "out").'
    )
