"""CAGrad: among the directions near the mean gradient, the one that helps the worst term most."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import GradientBalancing
from lightning_losses.balancing.quadratic import shortest_mean
from lightning_losses.numerics.settings import Bound


class CAGrad(GradientBalancing):
    """CAGrad: the direction d with ``|d - g0| <= c |g0|`` that maximises the smallest product with a term's gradient.

    g0 is the mean gradient. With w the weights on the simplex that minimise ``g_w·g0 + c |g0| |g_w|``, where
    ``g_w = Σ w g``, it is ``d = g0 + c |g0| g_w / |g_w|``; if g_w is 0, no direction helps all terms, and d is g0.

    Args:
        shared: see `GradientBalancing`.
        c: the relative distance from the mean, in [0, 1); 0 is the mean itself.
        rescale: 0 keeps d, as in the paper; 1 divides it by ``1 + c²``, as in LibMTL, 2 by ``1 + c``.

    Source:
        Liu, Liu, Jin, Stone, Liu, 2021, "Conflict-Averse Gradient Descent for Multi-task Learning", arXiv:2110.14048.
        Solved exactly; TorchJD's iterations agree to 5e-5, and LibMTL's to 5e-3.

    Example:
        >>> CAGrad(c=0.5).coefficients(torch.eye(2, dtype=torch.float64))
        tensor([0.7500, 0.7500], dtype=torch.float64)
    """

    c: Annotated[float, Bound(least=0, below=1)] = 0.5
    rescale: Annotated[int, Bound(least=0, most=2)] = 0

    def coefficients(self, gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        """``1 / T + c |g0| w / |g_w|``, rescaled."""
        mean = torch.full((len(gram),), 1 / len(gram), dtype=gram.dtype)
        # Scaled to lengths about 1, whose squares neither underflow nor overflow.
        gram = gram / gram.diagonal().max().clamp(min=torch.finfo(gram.dtype).tiny)
        radius = self.c * float((mean @ gram @ mean).clamp(min=0).sqrt())
        weights = mean
        if radius > 0 and (simplex := self._simplex(gram, mean, radius)) is not None:
            weights = mean + radius * simplex / (simplex @ gram @ simplex).sqrt()
        return weights / (1.0, 1 + self.c**2, 1 + self.c)[self.rescale]

    def _simplex(self, gram: Tensor, mean: Tensor, radius: float) -> Tensor | None:
        """The weights w, or None if g_w is 0.

        For a guess t of ``|g_w|`` they are the weights of the shortest mean of the gradients shifted by ``(t / radius)
        g0``. The guess is right if ``|g_w| = t``, and too small if ``|g_w|`` is larger.
        """
        towards, own = gram @ mean, mean @ gram @ mean

        def solved(guess: float) -> tuple[Tensor, float]:
            step = guess / radius
            moved = gram + step * (towards + towards.unsqueeze(-1)) + step**2 * own
            weights = shortest_mean(moved)
            return weights, float((weights @ gram @ weights).clamp(min=0).sqrt())

        low, high = 1e-7, 1.0
        weights, length = solved(low)
        if length <= low:
            return None
        for _ in range(60):
            # The fixed-point step if it is within the bounds, else the middle.
            guess = length if low < length < high else (low + high) / 2
            weights, length = solved(guess)
            if abs(length - guess) <= 1e-13 * guess:
                break
            low, high = (guess, high) if length > guess else (low, guess)
        return weights
