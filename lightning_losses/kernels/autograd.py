"""Autograd's side of the fused losses that make their gradients in the forward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Wanted = tuple[bool, bool, bool]
"""Which of hidden states, weight and bias need a gradient."""


class Summed(NamedTuple):
    """A reduced loss, what is logged beside it, and the gradients of the loss, None where none is wanted."""

    loss: Float[Tensor, ""]
    logged: Float[Tensor, ""]
    grad_hidden: Tensor | None
    grad_weight: Tensor | None
    grad_bias: Tensor | None


def gradients_in_forward(
    walk: Callable[..., Summed],
    name: str,
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, " vocabulary"] | None,
    target: Int[Tensor, " tokens"] | None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """What a walk makes, the loss differentiable, the logged part not.

    Args:
        walk: takes the operands, and by name which of them need a gradient.
        name: what the refusal of higher derivatives calls it.
        hidden, weight, bias, target: what it walks over.
    """
    learns = torch.is_grad_enabled()
    wanted = (
        learns and hidden.requires_grad,
        learns and weight.requires_grad,
        learns and bias is not None and bias.requires_grad,
    )
    loss, logged = _GradientsInForward.apply(hidden, weight, bias, target, partial(walk, wanted=wanted), name)
    return loss, logged


class _GradientsInForward(torch.autograd.Function):
    """The backward pass hands out what the forward pass made."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor | None, walk: Any, name: str
    ) -> tuple[Tensor, Tensor]:
        summed: Summed = walk(hidden, weight, bias, target)
        ctx.gradients, ctx.walk, ctx.name = summed[2:], walk, name
        ctx.save_for_backward(hidden, weight, bias, target)
        ctx.mark_non_differentiable(summed.logged)
        return summed.loss, summed.logged

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Each gradient times the upstream one; given away in the first backward pass, made again in a later one."""
        refuse_second_order(ctx.name)
        # Asked for in any case: a graph that was not retained must say so.
        operands = ctx.saved_tensors
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            gradients = ctx.walk(*operands)[2:]
        return (*_scaled(gradients, upstream[0]), None, None, None)


def _scaled(gradients: tuple[Tensor | None, ...], upstream: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
    """Gradients times the upstream one, in place; untouched where it is known to be 1."""
    if upstream.device.type == "cpu" and float(upstream) == 1.0:
        return gradients
    return tuple(None if gradient is None else gradient.mul_(upstream) for gradient in gradients)


def refuse_second_order(name: str) -> None:
    """Raise ``RuntimeError`` in a backward pass that is to be differentiated itself."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"linear_cross_entropy: create_graph=True came through impl='{name}', which has first "
            "derivatives only; use impl='reference' for higher ones."
        )
