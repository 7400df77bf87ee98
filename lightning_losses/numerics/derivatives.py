"""Values that have first derivatives only: to ask for higher ones is an error, and not a wrong number."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def first_derivatives_only(value: Float[Tensor, "*shape"], refusal: str) -> Float[Tensor, "*shape"]:
    """The value, whose gradient can't be made with a graph of its own.

    Args:
        value: what holds something constant that its second derivatives need.
        refusal: what the ``RuntimeError`` says.

    Example:
        >>> x = torch.ones(1, requires_grad=True)
        >>> torch.autograd.grad(first_derivatives_only(2 * x, "square: give x itself"), x, create_graph=True)
        Traceback (most recent call last):
        RuntimeError: square: give x itself
    """
    checked: Tensor = _FirstDerivativesOnly.apply(value, refusal)
    return checked


class _FirstDerivativesOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, refusal: str) -> Tensor:
        ctx.refusal = refusal
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(ctx.refusal)
        return gradients[0], None
