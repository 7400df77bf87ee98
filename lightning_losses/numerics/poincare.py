"""The Poincaré ball: the points of hyperbolic space as vectors shorter than ``1 / sqrt(c)``, c being its curvature.

Near 0 it is Euclidean space, in which lengths are twice as large; the farther out, the more room there is.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# As the ball's usual code has them: the shortest length that is divided by, what is added to the denominator of a sum,
# and how near to the rim a point may come.
_SHORTEST, _IN_SUM, _RIM = 1e-5, 1e-5, 1e-3


def squared(vectors: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows 1"]:
    """The squared lengths."""
    return vectors.square().sum(dim=-1, keepdim=True)


def lengths(vectors: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows 1"]:
    """The lengths; at least 1e-5, without gradient below."""
    size = _size(vectors)
    return size * squared(vectors / size).clamp(min=_SHORTEST**2).sqrt()


def _size(vectors: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows 1"]:
    """The largest coordinate, a constant of at least 1: squares of long vectors would overflow."""
    return vectors.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1.0)


def shortened(vectors: Float[Tensor, "*rows dim"], most: float) -> Float[Tensor, "*rows dim"]:
    """Vectors of at most this length (less 1e-5), in the same directions.

    Source:
        Guo et al., 2022, "Clipped Hyperbolic Classifiers Are Super-Hyperbolic Classifiers", arXiv:2107.11472.
    """
    size = _size(vectors)
    unit = vectors / size
    return unit * torch.minimum(most / (lengths(unit) + _SHORTEST / size), size)


def mobius_sum(
    left: Float[Tensor, "*rows dim"], right: Float[Tensor, "*rows dim"], curvature: float
) -> Float[Tensor, "*rows dim"]:
    """Möbius addition: of small vectors it is nearly their sum.

    Example:
        >>> mobius_sum(torch.tensor([0.5, 0.0]), torch.tensor([0.5, 0.0]), 1.0)
        tensor([0.8000, 0.0000])
    """
    inner = (left * right).sum(dim=-1, keepdim=True)
    left_squared, right_squared = squared(left), squared(right)
    above = (1 + 2 * curvature * inner + curvature * right_squared) * left + (1 - curvature * left_squared) * right
    return above / (1 + 2 * curvature * inner + curvature**2 * left_squared * right_squared + _IN_SUM)


def into_ball(
    vectors: Float[Tensor, "*rows dim"], curvature: float, base: Float[Tensor, " dim"] | None = None
) -> Float[Tensor, "*rows dim"]:
    """The points to which vectors lead from a point of the ball (the exponential map), inside of the rim.

    Args:
        vectors: [..., D].
        curvature: c, above 0.
        base: where they begin; None for 0.

    Example:
        >>> into_ball(torch.tensor([[0.0, 100.0], [0.0, 0.5]]), curvature=1.0)
        tensor([[0.0000, 0.9990],
                [0.0000, 0.4621]])
    """
    root, length = curvature**0.5, lengths(vectors)
    if base is None:
        return _inside(torch.tanh(root * length) * vectors / (root * length), curvature)
    from_base = torch.tanh(root * length / (1 - curvature * squared(base))) * vectors / (root * length)
    return _inside(mobius_sum(base, from_base, curvature), curvature)


def _inside(points: Float[Tensor, "*rows dim"], curvature: float) -> Float[Tensor, "*rows dim"]:
    most, length = (1 - _RIM) / curvature**0.5, lengths(points)
    return torch.where(length > most, points / length * most, points)


def poincare_distance(
    left: Float[Tensor, "*rows dim"], right: Float[Tensor, "*rows dim"], curvature: float
) -> Float[Tensor, "*rows"]:
    """``2 / sqrt(c) artanh(sqrt(c) |-u ⊕ v|)``: the length of the shortest way from u to v; its gradient is 0 at u = v.

    Example:
        >>> poincare_distance(torch.zeros(1, 2), torch.tensor([[0.5, 0.0]]), 1.0)
        tensor([1.0986])
    """
    root = curvature**0.5
    apart = squared(mobius_sum(-left, right, curvature)).squeeze(-1)
    # At 0 the root has an infinite slope.
    length = torch.where(apart > 0, apart, 1.0).sqrt().where(apart > 0, apart)
    # Within the ball it is below 1 by 2e-6 at least, for what is added in a sum.
    return 2 / root * torch.atanh(root * length)


def hyperbolic_logits(
    points: Float[Tensor, "*rows dim"],
    normals: Float[Tensor, "classes dim"],
    offsets: Float[Tensor, "classes dim"],
    curvature: float,
) -> Float[Tensor, "*rows classes"]:
    """The signed distances of points from the hyperplane of each class, times the size of its normal.

    ``|a_c| λ / sqrt(c) asinh(2 sqrt(c) <-p ⊕ x, a> / (|a| (1 - c |-p ⊕ x|²)))`` with λ = ``2 / (1 - c |p|²)``.

    Args:
        points: x, in the ball.
        normals: a, of the hyperplanes, at their points.
        offsets: p, points of the hyperplanes.
        curvature: c, above 0.

    Source:
        Ganea, Bécigneul, Hofmann, 2018, "Hyperbolic Neural Networks", arXiv:1805.09112.
    """
    root = curvature**0.5
    apart = mobius_sum(-offsets, points.unsqueeze(-2), curvature)
    size = lengths(normals).squeeze(-1)
    # As the denominator is above 0 inside of the ball.
    share = 2 * root * (apart * normals).sum(dim=-1) / (size * (1 - curvature * squared(apart).squeeze(-1)))
    return 2 * size / (1 - curvature * squared(offsets).squeeze(-1)) / root * torch.asinh(share)
