"""What adapters share: reading a case's parameters completely, and gradients under the names that cases expect."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

Adapter = Callable[[dict[str, Tensor], dict[str, Any]], dict[str, Tensor]]

_REQUIRED = object()


class Params:
    """A case's parameters, each to be read: leaving the context with one unread raises, so that none is ignored.

    `note` is free text and needs no reading.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._left = {name: value for name, value in params.items() if name != "note"}

    def __enter__(self) -> "Params":
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._left:
            raise ValueError(f"the adapter does not know the parameters {self._left}")

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        """The value of a parameter; without a default it must be there."""
        if name not in self._left:
            if default is _REQUIRED:
                raise ValueError(f"the adapter needs the parameter {name!r}")
            return default
        return self._left.pop(name)

    def choice(self, name: str, choices: Mapping[Any, Any], default: Any = _REQUIRED) -> Any:
        """What a parameter with a few known values stands for; an unknown value raises."""
        if name not in self._left and default is not _REQUIRED:
            return default
        value = self.take(name)
        if value not in choices:
            raise ValueError(f"the adapter knows {name} as one of {list(choices)}, not {value!r}")
        return choices[value]


def leaf(tensor: Tensor) -> Tensor:
    """A copy that gathers a gradient."""
    return tensor.detach().clone().requires_grad_()


def gradients(value: Tensor, **leaves: Tensor) -> dict[str, Tensor]:
    """``{"grad_<name>": d value / d leaf}``; zeros for a leaf that the value does not depend on."""
    found = torch.autograd.grad(
        value, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return {f"grad_{name}": gradient for name, gradient in zip(leaves, found, strict=True)}
