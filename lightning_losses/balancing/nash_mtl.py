"""Nash-MTL: the direction is Nash's bargaining solution between the terms."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.balancing.base import GradientBalancing, Step, unit_gram
from lightning_losses.numerics.settings import Bound, NonNegative

# The least eigenvalue of the cosines with which there is a solution that rounding doesn't decide.
_LEAST = 1e-8


class NashMTL(GradientBalancing):
    """Nash-MTL: weights ``a > 0`` with ``G a = 1 / a``, where G holds the gradients' products: Nash's bargain.

    The terms' scales don't matter: one whose loss is multiplied by k gets the weight a / k. The direction ``Σ a g`` has
    the length √T, and is then clipped: with more than one term `max_norm` is its length. As the authors train by the
    weighted sum of losses, parameters that a single term reaches have their gradient times a, which is not clipped.
    Where gradients depend on each other there may be no bargain, and the least change of G is made that has one; a
    term whose gradient is 0 takes no part, and keeps the weight that it had.

    Args:
        shared: see `GradientBalancing`.
        max_norm: the greatest length of the direction; 0 leaves it.
        update_weights_every: optimizer steps between two bargains. In between the last weights are used again, and the
            direction is clipped anew. That needs its length, so the terms' gradients are taken in every step.

    Source:
        Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik, Fetaya, 2022, "Multi-Task Learning as a Bargaining Game",
        arXiv:2202.01017. Solved by Newton's method; the authors' iterations agree to 1e-3.

    Example:
        >>> NashMTL(max_norm=0.0).coefficients(torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64)))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """

    weighs_heads = True

    max_norm: NonNegative = 1.0
    update_weights_every: Annotated[int, Bound(least=1)] = 1

    def begin(self, terms: int) -> None:
        """The last weights, and the number of steps done."""
        super().begin(terms)
        self.state("bargain", 1.0)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def coefficients(self, gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        """The weights of a bargain over these gradients, clipped."""
        return self._clipped(_bargain(gram), gram)

    def combined(self, gram: Float[Tensor, "terms terms"], present: Bool[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """The same, of the terms that are present, or the last weights where no bargain is due."""
        gram, bargain = gram[present][:, present], self.get_buffer("bargain")
        weights = bargain.to(gram)
        if int(self.get_buffer("steps")) % self.update_weights_every == 0:
            new = _bargain(gram)
            weights[present] = torch.where(new > 0, new, weights[present])
            bargain.copy_(weights)
        clipped = torch.ones_like(weights)
        clipped[present] = self._clipped(weights[present], gram)
        return clipped

    def head_weights(self) -> Float[Tensor, " terms"]:
        """The weights before they are clipped."""
        return self.get_buffer("bargain").cpu()

    def update(self, step: Step) -> None:
        """Count it."""
        self.get_buffer("steps").add_(1)

    def _clipped(self, weights: Float[Tensor, " terms"], gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        cosines, lengths, kept = unit_gram(gram)
        if self.max_norm == 0 or not len(lengths):
            return weights
        parts = weights[kept] * lengths
        length = (parts @ _solvable(cosines) @ parts).sqrt()
        return weights * (self.max_norm / length).clamp(max=1)


def _solvable(cosines: Float[Tensor, "terms terms"]) -> Float[Tensor, "terms terms"]:
    """The cosines, changed as little as gives them a bargain."""
    least = torch.linalg.eigvalsh(cosines)[0]
    return cosines + (_LEAST - least).clamp(min=0) * torch.eye(len(cosines), dtype=cosines.dtype)


def _bargain(gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
    """The solution of ``G a = 1 / a``; 0 for gradients of 0."""
    weights = torch.zeros(len(gram), dtype=gram.dtype)
    cosines, lengths, kept = unit_gram(gram)
    if len(lengths):
        weights[kept] = _minimum(_solvable(cosines)) / lengths
    return weights


def _minimum(matrix: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
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
