"""First derivatives by a walk over all pairs, and higher ones of few pairs by their whole matrix."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.probabilities import known_everywhere
from lightning_losses.similarities import tiles


def value_by_walk(
    walk: Callable[..., tuple[Tensor, Sequence[Tensor | None]]],
    matrix: Callable[..., Tensor],
    rows: Float[Tensor, "rows width"],
    columns: Float[Tensor, "columns width"],
    *others: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """A loss of all pairs whose walk makes the gradients beside the value; the backward pass returns them.

    Args:
        walk: takes the inputs, and by name which of them need a gradient; gives the value and the gradients.
        matrix: the same by operations that autograd differentiates, which hold the matrix of all pairs.
        rows: the first input.
        columns: the second one.
        *others: further ones, such as a scale.
    """
    inputs = (rows, columns, *others)
    if tiles.whole_matrix(rows, columns):
        return matrix(*inputs)
    learns = torch.is_grad_enabled()
    wanted = tuple(learns and isinstance(given, Tensor) and given.requires_grad for given in inputs)
    value: Tensor = _GradientsInForward.apply(partial(walk, wanted=wanted), matrix, *inputs)
    return value


def gradients_with_graph(
    matrix: Callable[..., Tensor], inputs: Sequence[Any], upstream: Float[Tensor, "..."]
) -> list[Tensor | None]:
    """Gradients that can be differentiated; None for an input that needs none.

    Raises:
        RuntimeError: no inputs, which were not kept because they are many.
    """
    if not inputs:
        raise RuntimeError(
            f"create_graph=True came through similarities of more than {tiles.DENSE} pairs, which have first "
            "derivatives only; give fewer pairs at once, or leave it out."
        )
    learning = [isinstance(given, Tensor) and given.requires_grad for given in inputs]
    # Views: of an input that is made of another one, autograd would add the gradient to the other's, and again later.
    inputs = [given.view_as(given) if learns else given for given, learns in zip(inputs, learning, strict=True)]
    leaves = [given for given, learns in zip(inputs, learning, strict=True) if learns]
    # A backward pass may run within autocast.
    with torch.autocast(upstream.device.type, enabled=False):
        gradients = iter(torch.autograd.grad(matrix(*inputs), leaves, upstream, create_graph=True))
    return [next(gradients) if learns else None for learns in learning]


class _GradientsInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, walk: Any, matrix: Any, *inputs: Any) -> Tensor:
        with torch.autocast(inputs[0].device.type, enabled=False):
            value, gradients = walk(*inputs)
        kept = inputs if tiles.small(*inputs[:2]) else ()
        ctx.matrix, ctx.wanted = matrix, len(inputs)
        ctx.numbers = [None if isinstance(given, Tensor) else given for given in kept]
        ctx.save_for_backward(*gradients, *(given if isinstance(given, Tensor) else None for given in kept))
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients, kept = ctx.saved_tensors[: ctx.wanted], ctx.saved_tensors[ctx.wanted :]
        if torch.is_grad_enabled():
            inputs = [number if given is None else given for given, number in zip(kept, ctx.numbers, strict=True)]
            return (None, None, *gradients_with_graph(ctx.matrix, inputs, upstream[0]))
        if known_everywhere(upstream[0] == 1):
            return (None, None, *gradients)
        return (None, None, *(None if each is None else each * upstream[0] for each in gradients))
