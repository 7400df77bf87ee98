"""Ensemble temperature scaling: a mixture of scaled, unscaled and uniform probabilities."""

import itertools
import math
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.calibrators.base import Calibrator
from lightning_losses.numerics.checks import check_number

_CHUNK = 1 << 20
_GOLDEN = (5**0.5 - 1) / 2


class EnsembleTemperatureScaling(Calibrator):
    """Ensemble temperature scaling: ``w₁ softmax(logits / T) + w₂ softmax(logits) + w₃ / C``.

    T minimises the mean squared error of ``softmax(logits / T)`` to the one-hot targets within its bounds; then the
    weights, non-negative with sum 1, minimise the same error of the mixture: a convex problem, solved exactly. The
    mixture keeps the order of the classes. But if the uniform part has all or nearly all of the weight, their
    probabilities become equal, and the predicted class and accuracy may change.

    Args:
        minimum: the smallest T, above 0.
        maximum: the largest T.
        ignore_index: samples with this target are ignored.

    Attributes:
        temperature: [] the fitted T, empty before `fit`.
        weights: [3] the weights of the scaled, the unscaled and the uniform probabilities.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Raises:
        ValueError: not ``0 < minimum < maximum``; input that `fit` can't use; use before `fit`.

    Source:
        Zhang, Kailkhura, Han, 2020, "Mix-n-Match: Ensemble and Compositional Methods for Uncertainty Calibration in
        Deep Learning", arXiv:2003.07329, with their squared error.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0]]).repeat(4, 1)
        >>> calibrator = EnsembleTemperatureScaling().fit(logits, torch.tensor([0, 0, 0, 1]))
        >>> torch.softmax(calibrator(logits[0]), dim=-1)
        tensor([0.7500, 0.2500])
    """

    learned: ClassVar[tuple[str, ...]] = ("temperature", "weights")
    temperature: Tensor
    weights: Tensor

    def __init__(self, minimum: float = 0.05, maximum: float = 5.0, ignore_index: int = -100) -> None:
        super().__init__(ignore_index)
        check_number("EnsembleTemperatureScaling", "minimum", minimum, above=0)
        check_number("EnsembleTemperatureScaling", "maximum", maximum, above=minimum)
        self.minimum = minimum
        self.maximum = maximum

    def _fit(self, logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"]) -> dict[str, Tensor]:
        with torch.no_grad():
            temperature = _best_temperature(logits, target, self.minimum, self.maximum)
            # Nine numbers, on the host: on CUDA no driver of `lstsq` solves a singular system.
            weights = _best_weights(*(moment.cpu() for moment in _moments(logits, target, temperature)))
        return {"temperature": torch.tensor(temperature, dtype=torch.float64), "weights": weights}

    def _calibrate(self, logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        wide = self._widened(logits)
        parts = [
            torch.log_softmax(wide / self.temperature, dim=-1),
            torch.log_softmax(wide, dim=-1),
            torch.full_like(wide, -math.log(wide.shape[-1])),
        ]
        return torch.logsumexp(torch.stack(parts, dim=-1) + self.weights.log(), dim=-1).to(logits.dtype)


def _best_temperature(logits: Tensor, target: Tensor, minimum: float, maximum: float) -> float:
    """The temperature of smallest squared error: the best of a logarithmic grid, refined by golden-section search."""

    def error(temperature: float) -> float:
        total = 0.0
        rows = max(_CHUNK // logits.shape[-1], 1)
        for chunk, labels in zip(torch.split(logits, rows), torch.split(target, rows), strict=True):
            probabilities = torch.softmax(chunk.double() / temperature, dim=-1)
            chosen = probabilities.gather(-1, labels.unsqueeze(-1))
            total += float(probabilities.square().sum() - 2 * chosen.sum())
        return total / len(logits)

    grid = torch.logspace(0, 1, 25, base=maximum / minimum, dtype=torch.float64).mul(minimum).tolist()
    values = [error(temperature) for temperature in grid]
    best = values.index(min(values))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = error(left), error(right)
    while high - low > 1e-8 * high:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = error(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = error(right)
    return (low + high) / 2


def _moments(
    logits: Tensor, target: Tensor, temperature: float
) -> tuple[Float[Tensor, "three three"], Float[Tensor, " three"]]:
    """Mean inner products of the three sources with each other, and with the one-hot targets."""
    gram = torch.zeros(3, 3, dtype=torch.float64, device=logits.device)
    match = torch.zeros(3, dtype=torch.float64, device=logits.device)
    rows = max(_CHUNK // logits.shape[-1], 1)
    for chunk, labels in zip(torch.split(logits, rows), torch.split(target, rows), strict=True):
        scores = chunk.double()
        sources = torch.stack(
            [
                torch.softmax(scores / temperature, dim=-1),
                torch.softmax(scores, dim=-1),
                torch.full_like(scores, 1 / scores.shape[-1]),
            ]
        )
        flat = sources.reshape(3, -1)
        gram += flat @ flat.T
        match += sources.gather(-1, labels.expand(3, -1).unsqueeze(-1)).sum(dim=(1, 2))
    return gram / len(logits), match / len(logits)


def _best_weights(gram: Float[Tensor, "three three"], match: Float[Tensor, " three"]) -> Float[Tensor, " three"]:
    """The minimum of ``w·gram·w - 2 w·match`` on the simplex: the best feasible optimum over all its faces."""
    best, best_value = torch.zeros_like(match), torch.inf
    for size in (1, 2, 3):
        for face in itertools.combinations(range(3), size):
            rows = list(face)
            system = gram.new_ones(size + 1, size + 1)
            system[:size, :size], system[size, size] = gram[rows][:, rows], 0.0
            right = torch.cat([match[rows], match.new_ones(1)])
            weights = torch.zeros_like(match)
            # Equal sources make the system singular; the least-norm solution is one of its optima.
            weights[rows] = torch.linalg.lstsq(system, right.unsqueeze(-1), driver="gelsd").solution[:size, 0]
            value = float(weights @ gram @ weights - 2 * weights @ match)
            if bool((weights >= 0).all()) and value < best_value - 1e-15:
                best, best_value = weights, value
    return best / best.sum()
