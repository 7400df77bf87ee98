"""What functions with a backward pass of their own don't give: higher derivatives, and those of `torch.func`."""

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


def in_transform() -> bool:
    """Whether a transform of `torch.func` runs, which takes no function with such a backward pass.

    Example:
        >>> torch.func.vmap(lambda x: x + in_transform())(torch.zeros(2)), in_transform()
        (tensor([1., 1.]), False)
    """
    # Torch's own functions ask this; compiled code, which they don't run in, can't.
    return not torch.compiler.is_compiling() and bool(torch._C._are_functorch_transforms_active())


def refuse_transforms(who: str, remedy: str) -> None:
    """Raise ``ValueError`` if a transform of `torch.func` runs."""
    if in_transform():
        raise ValueError(
            f"{who} has a backward pass of its own, which the transforms of torch.func don't take; give {remedy}."
        )


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
