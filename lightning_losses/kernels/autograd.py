"""Autograd functions for fused losses that compute their gradients in the forward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.products import multiplied
from lightning_losses.numerics.derivatives import refuse_transforms

Wanted = tuple[bool, bool, bool]
"""Which of hidden states, weight and bias need a gradient."""


class Operands(NamedTuple):
    """Rows, the head that scores them, and their targets, if there are any."""

    hidden: Float[Tensor, "rows width"]
    weight: Float[Tensor, "vocabulary width"]
    bias: Float[Tensor, " vocabulary"] | None = None
    target: Int[Tensor, " rows"] | None = None


class Summed(NamedTuple):
    """A reduced loss, its parts for logging, and its gradients; None for an operand that needs no gradient.

    Attributes:
        factor: what the gradients still lack. Those of float16 operands come in float32: they are rounded once, after
            the upstream gradient, which a loss scaler makes large so that small entries survive.
    """

    loss: Float[Tensor, ""]
    logged: Float[Tensor, ""]
    grad_hidden: Tensor | None
    grad_weight: Tensor | None
    grad_bias: Tensor | None
    factor: float | Tensor = 1.0


class Notes:
    """Row values of a forward pass, for the backward pass that a compiler runs separately.

    Attributes:
        lines: [`MOST`, tokens] one statistic, or part of a loss, a line, in the order in which they were made.
    """

    MOST: ClassVar[int] = 4

    def __init__(self, lines: Float[Tensor, "lines tokens"], made: bool) -> None:
        self.lines, self._made, self._next = lines, made, 0

    def taken(self, make: Callable[[], Sequence[Tensor | None]], present: Sequence[bool], rows: int) -> list[Any]:
        """The result of `make`, which is called only in the first pass; None if nothing is `present`."""
        start, self._next = self._next, self._next + sum(present)
        lines = iter(self.lines[start : self._next])
        if self._made:
            return [next(lines)[:rows] if there else None for there in present]
        values = list(make())
        for value in values:
            if value is not None:
                next(lines)[:rows] = value
        return values


_notes: ContextVar[Notes | None] = ContextVar("notes", default=None)


@contextmanager
def noting(notes: Notes) -> Iterator[None]:
    """Within this context, `once` records its values in the notes, or reads them from there."""
    token = _notes.set(notes)
    try:
        yield
    finally:
        _notes.reset(token)


def once(make: Callable[[], Sequence[Tensor | None]], present: Sequence[bool], rows: int) -> list[Any]:
    """The result of `make` for these rows, read from the notes if an earlier pass has recorded it."""
    notes = _notes.get()
    return list(make()) if notes is None else notes.taken(make, present, rows)


def gradients_in_forward(
    walk: Callable[..., Summed], name: str, operands: Operands
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The results of a walk; the loss is differentiable, its logged part is not.

    Args:
        walk: takes the operands, and by name whether each of them needs a gradient.
        name: the loss's name in the error about higher derivatives.
        operands: the walk's input.
    """
    refuse_transforms(f"linear_cross_entropy: impl={name!r}", "impl='reference', or the loss itself its logits")
    learns = torch.is_grad_enabled()
    wanted = tuple(learns and operand is not None and operand.requires_grad for operand in operands[:3])
    loss, logged = _GradientsInForward.apply(*operands, partial(walk, wanted=wanted), name)
    return loss, logged


class _GradientsInForward(torch.autograd.Function):
    """The backward pass returns the gradients that the forward pass computed."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor | None, walk: Any, name: str
    ) -> tuple[Tensor, Tensor]:
        summed: Summed = walk(Operands(hidden, weight, bias, target))
        ctx.gradients, ctx.factor, ctx.walk, ctx.name = summed[2:5], summed.factor, walk, name
        ctx.save_for_backward(hidden, weight, bias, target)
        ctx.mark_non_differentiable(summed.logged)
        return summed.loss, summed.logged

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Each gradient times the upstream one; freed in the first backward pass, computed again in a later one."""
        refuse_second_order(ctx.name)
        # Asked for in any case: a graph that was not retained must say so.
        operands = Operands(*ctx.saved_tensors)
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            with torch.autocast(operands.hidden.device.type, enabled=False):
                gradients = ctx.walk(operands)[2:5]
        factor = upstream[0] if isinstance(ctx.factor, float) and ctx.factor == 1.0 else upstream[0] * ctx.factor
        scaled = (
            None if gradient is None or operand is None else multiplied(gradient, factor).to(operand.dtype)
            for gradient, operand in zip(gradients, operands, strict=False)
        )
        return (*scaled, None, None, None)


def refuse_second_order(name: str) -> None:
    """Raise ``RuntimeError`` in a backward pass with ``create_graph=True``."""
    if torch.is_grad_enabled():
        raise RuntimeError(second_order_refusal(name))


def second_order_refusal(name: str) -> str:
    """The error message for a second derivative of an implementation that has only first ones."""
    return (
        f"create_graph=True came through a fused head's impl='{name}', which has first derivatives only; for higher "
        "ones compute the loss of the layer's logits, or use impl='reference' where the head has it."
    )
