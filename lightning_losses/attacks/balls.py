"""The sets that attacks stay within: balls around inputs, in two norms, and a box."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.row_generator import Randomness, normal, uniform

Norm = Literal["linf", "l2"]


def ascent_step(gradient: Float[Tensor, "rows ..."], norm: Norm) -> Float[Tensor, "rows ..."]:
    """The step of length 1 that raises a linear function most: the signs, or each row's unit vector; 0 where it is 0.

    Example:
        >>> ascent_step(torch.tensor([[3.0, -4.0], [0.0, 0.0]]), "l2")
        tensor([[ 0.6000, -0.8000],
                [ 0.0000,  0.0000]])
    """
    if norm == "l2":
        return _unit(gradient)
    # The sign of NaN is 0 to torch, which would hide it. Numbers below the normal ones have a sign too.
    info = torch.finfo(gradient.dtype)
    return gradient.div(info.tiny).clamp_(-info.eps, info.eps).div_(info.eps)


def into_ball(
    inputs: Float[Tensor, "rows ..."],
    centre: Float[Tensor, "rows ..."],
    epsilon: float,
    norm: Norm,
    bounds: tuple[float, float] | None,
) -> Float[Tensor, "rows ..."]:
    """The inputs projected onto the ball around `centre`, then onto the box, which keeps them in the ball.

    Example:
        >>> into_ball(torch.tensor([[0.5, 0.9]]), torch.tensor([[0.1, 1.0]]), 0.2, "linf", (0.0, 1.0))
        tensor([[0.3000, 0.9000]])
    """
    # In place from here on: what an attack costs beside its passes is the memory that this goes through.
    moved = inputs - centre
    if norm == "linf":
        moved.clamp_(-epsilon, epsilon)
    else:
        # Squares of numbers as small as physics has them vanish in float32, and so would the ball.
        length = torch.linalg.vector_norm(moved.flatten(1), dim=1, dtype=torch.float64)
        within = (epsilon / length.clamp_(min=torch.finfo(moved.dtype).tiny)).clamp_(max=1.0)
        moved.mul_(_for_rows(within.to(moved.dtype), moved))
    moved.add_(centre)
    return moved if bounds is None else moved.clamp_(*bounds)


def into_box(inputs: Float[Tensor, "rows ..."], bounds: tuple[float, float] | None) -> Float[Tensor, "rows ..."]:
    """The inputs, each number clipped to the bounds; None: as they are."""
    return inputs if bounds is None else inputs.clamp(*bounds)


def uniform_in_ball(
    like: Float[Tensor, "rows ..."], epsilon: float, norm: Norm, generator: Randomness
) -> Float[Tensor, "rows ..."]:
    """Points that are uniform in the ball around 0, of the shape of other rows.

    Example:
        >>> points = uniform_in_ball(torch.zeros(100, 3), 0.5, "l2", torch.Generator().manual_seed(0))
        >>> bool((points.norm(dim=1) <= 0.5).all())
        True
    """
    if norm == "linf":
        return epsilon * (2 * uniform(like, generator) - 1)
    direction = normal(like, generator)
    radius = uniform(like.flatten(1).sum(dim=1), generator)
    radius = epsilon * radius ** (1 / max(like[0].numel(), 1))
    return _unit(direction) * _for_rows(radius, direction)


def _unit(rows: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows ..."]:
    # First by the largest entry, so that squares neither overflow nor vanish.
    tiny = torch.finfo(rows.dtype).tiny
    rows = rows / _for_rows(torch.linalg.vector_norm(rows.flatten(1), torch.inf, dim=1).clamp_(min=tiny), rows)
    return rows.div_(_for_rows(torch.linalg.vector_norm(rows.flatten(1), dim=1).clamp_(min=tiny), rows))


def _for_rows(values: Float[Tensor, " rows"], like: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows ..."]:
    return values.view(-1, *[1] * (like.ndim - 1))
