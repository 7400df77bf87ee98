"""Autograd functions for a walk over the rows of a head: a reduced loss, or a value for each row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.kernels.autograd import Operands, Summed, Wanted, once, refuse_second_order
from lightning_losses.kernels.products import multiplied


class Parts(NamedTuple):
    """The weights of a loss's parts: the given loss, and cross-entropy with the target (0 for none)."""

    soft: float = 1.0
    hard: float = 0.0

    def total(self, values: Float[Tensor, "parts *rows"]) -> Float[Tensor, "*rows"]:
        """The weighted sum."""
        soft = values[0] if self.soft == 1 else self.soft * values[0]
        return soft + self.hard * values[1] if self.hard else soft


class Walked(NamedTuple):
    """Each row's values, one line per part, and the gradients of their weighted sum before `factor`, as in `Summed`."""

    values: Float[Tensor, "parts rows"]
    grad_hidden: Tensor | None
    grad_weight: Tensor | None
    grad_bias: Tensor | None
    factor: float | Float[Tensor, ""] = 1.0


Walk = Callable[..., Walked]
"""A function of `Operands`, and by name `share`, the weight of each row, and `wanted`."""


def scaled_sum(operands: Operands, *, walk: Walk, parts: Parts, scale: float | Tensor, wanted: Wanted) -> Summed:
    """``scale`` times the sum of the rows' values, differentiable, and its parts for logging."""
    walked = walk(operands, share=scale, wanted=wanted)
    sums = scale * walked.values.sum(dim=1)
    # Copied: a view of the parts couldn't be changed in place.
    return Summed(parts.total(sums).clone(), sums, *walked[1:])


class ChunkedRows(torch.autograd.Function):
    """Each row's value and its parts; backward walks again, when each row's upstream gradient is known."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor | None, walk: Walk, parts: Parts
    ) -> tuple[Tensor, Tensor]:
        """The values."""
        ctx.save_for_backward(hidden, weight, bias, target)
        ctx.walk = walk
        operands, nothing = Operands(hidden, weight, bias, target), (False, False, False)
        present = [True] * (2 if parts.hard else 1)
        values = torch.stack(once(lambda: list(walk(operands, share=1.0, wanted=nothing).values), present, len(hidden)))
        ctx.mark_non_differentiable(values)
        # Copied: a view of the parts would have no gradient.
        return parts.total(values).clone(), values

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, from scores computed again."""
        refuse_second_order("chunked")
        operands = Operands(*ctx.saved_tensors)
        # Within a region of autocast the backward pass would multiply in another precision than the forward one.
        with torch.autocast(operands.hidden.device.type, enabled=False):
            walked = ctx.walk(operands, share=upstream[0], wanted=ctx.needs_input_grad[:3])
        gradients = (
            None if gradient is None or operand is None else _times(gradient, walked.factor).to(operand.dtype)
            for gradient, operand in zip(walked[1:4], operands, strict=False)
        )
        return (*gradients, None, None, None)


def refuse_higher(value: Float[Tensor, "*shape"], who: str, remedy: str) -> None:
    """Let a backward pass with ``create_graph=True`` from a value raise ``RuntimeError``, before the value's own does.

    Args:
        value: the result of a function that has first derivatives only.
        who: the beginning of the error: what was called.
        remedy: what has higher derivatives.
    """

    def refuse(gradient: Tensor) -> None:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"{who} came with create_graph=True, and has first derivatives only; for higher ones give {remedy}."
            )

    # Not a node of its own, whose output would be a view that can't be changed in place.
    if value.requires_grad:
        value.register_hook(refuse)  # type: ignore[no-untyped-call]


def _times(gradient: Tensor, factor: float | Tensor) -> Tensor:
    return multiplied(gradient, factor) if isinstance(factor, Tensor) else gradient
