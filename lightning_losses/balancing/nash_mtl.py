"""Nash-MTL: the direction on which terms that bargain for it would agree."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import GradientBalancing, unit_gram
from lightning_losses.numerics.settings import NonNegative

# The least eigenvalue of the cosines with which there is a solution that rounding doesn't decide.
_LEAST = 1e-8


class NashMTL(GradientBalancing):
    """Nash-MTL: weights ``a > 0`` with ``G a = 1 / a``, where G holds the gradients' products; the bargain of Nash.

    The terms' scales don't matter: one whose loss is multiplied by k gets the weight a / k. The direction ``Σ a g`` has
    the length √T, and is then clipped: with more than one term `max_norm` is its length. As the authors train by the
    weighted sum of losses, the weights are also those of the parameters that a single term reaches. Where gradients
    depend on each other there may be no bargain, and the least change of G is made that has one; a gradient of 0 takes
    no part.

    Args:
        shared: see `GradientBalancing`.
        max_norm: of the direction; 0 leaves it.

    Source:
        Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik, Fetaya, 2022, "Multi-Task Learning as a Bargaining Game",
        arXiv:2202.01017. Solved by Newton's method; the authors' iterations agree to 1e-3.

    Example:
        >>> NashMTL(max_norm=0.0).coefficients(torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64)))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """

    weighs_heads = True

    max_norm: NonNegative = 1.0

    def coefficients(self, gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        """The weights a, clipped."""
        weights = torch.zeros(len(gram), dtype=gram.dtype)
        cosines, lengths, kept = unit_gram(gram)
        if not len(lengths):
            return weights
        least = torch.linalg.eigvalsh(cosines)[0]
        cosines = cosines + (_LEAST - least).clamp(min=0) * torch.eye(len(cosines), dtype=cosines.dtype)
        bargain = _bargain(cosines)
        length = (bargain @ cosines @ bargain).sqrt()
        clipped = bargain * (self.max_norm / length).clamp(max=1) if self.max_norm > 0 else bargain
        weights[kept] = clipped / lengths
        return weights


def _bargain(matrix: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
    """The minimum of ``aᵀ M a / 2 - Σ log a``, by damped steps of Newton's method: the function is self-concordant."""
    weights = torch.full((len(matrix),), len(matrix) ** -0.5, dtype=matrix.dtype)
    for _ in range(200):
        slope = matrix @ weights - 1 / weights
        move = torch.linalg.solve(matrix + torch.diag(weights**-2), slope)
        decrement = float((slope @ move).clamp(min=0).sqrt())
        weights = weights - move / (1 + decrement if decrement > 0.25 else 1)
        if decrement < 1e-12:
            break
    return weights
