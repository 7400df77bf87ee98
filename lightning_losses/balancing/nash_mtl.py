"""Nash-MTL: the direction is Nash's bargaining solution between the terms."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.balancing.base import GradientBalancing, Step, unit_gram
from lightning_losses.numerics.settings import Bound, NonNegative

# The smallest eigenvalue of the cosines for which rounding doesn't dominate the solution.
_LEAST = 1e-8


class NashMTL(GradientBalancing):
    """Nash-MTL: weights ``a > 0`` with ``G a = 1 / a``, where G holds the gradients' inner products: Nash's bargain.

    The terms' scales don't matter: a term whose loss is multiplied by k gets the weight a / k. The direction ``Σ a g``
    has the length √T, and is then clipped to `max_norm`. The authors train with the weighted sum of losses, so
    parameters of a single term have their gradient times a, without clipping. Linearly dependent gradients may have no
    bargain; then G is changed as little as possible so that it has one. A term whose gradient is 0 is left out, and
    keeps its weight.

    Args:
        shared: see `GradientBalancing`.
        max_norm: the largest length of the direction; 0 doesn't clip.
        update_weights_every: optimizer steps between two bargains. In between, the last weights are used, and the
            direction is clipped anew. Clipping needs its length, so the terms' gradients are computed in every step.

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
        """Create the last weights and the number of steps done."""
        super().begin(terms)
        self.state("bargain", 1.0)
        self.count_steps()

    def coefficients(self, gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        """The clipped weights of a bargain over these gradients."""
        return self._clipped(_bargain(gram), gram)

    def combined(self, gram: Float[Tensor, "terms terms"], present: Bool[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """The weights of the present terms, or the last weights if no bargain is due."""
        gram, bargain = gram[present][:, present], self.get_buffer("bargain")
        weights = bargain.to(gram)
        if self.steps_done % self.update_weights_every == 0:
            new = _bargain(gram)
            weights[present] = torch.where(new > 0, new, weights[present])
            bargain.copy_(weights)
        clipped = torch.ones_like(weights)
        clipped[present] = self._clipped(weights[present], gram)
        return clipped

    def head_weights(self) -> Float[Tensor, " terms"]:
        """The weights before clipping."""
        return self.get_buffer("bargain").cpu()

    def update(self, step: Step) -> None:
        """Count it."""
        self.count_step()

    def _clipped(self, weights: Float[Tensor, " terms"], gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        cosines, lengths, kept = unit_gram(gram)
        if self.max_norm == 0 or not len(lengths):
            return weights
        parts = weights[kept] * lengths
        length = (parts @ _solvable(cosines) @ parts).sqrt()
        return weights * (self.max_norm / length).clamp(max=1)


def _solvable(cosines: Float[Tensor, "terms terms"]) -> Float[Tensor, "terms terms"]:
    """The cosines, changed as little as possible to have a bargain."""
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
    """The minimum of ``aᵀ M a / 2 - Σ log a``, by damped Newton steps; the function is self-concordant."""
    weights = torch.full((len(matrix),), len(matrix) ** -0.5, dtype=matrix.dtype)
    for _ in range(200):
        slope = matrix @ weights - 1 / weights
        move = torch.linalg.solve(matrix + torch.diag(weights**-2), slope)
        decrement = float((slope @ move).clamp(min=0).sqrt())
        weights = weights - move / (1 + decrement if decrement > 0.25 else 1)
        if decrement < 1e-12:
            break
    return weights
