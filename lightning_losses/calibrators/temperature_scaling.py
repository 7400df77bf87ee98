"""Temperature scaling: one number divides all logits."""

import math
import warnings
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.calibrators.base import Calibrator
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.rows import pick

_CHUNK = 1 << 16
_SAMPLE = 1 << 12


class TemperatureScaling(Calibrator):
    """Temperature scaling: the calibrated logits are ``logits / T``.

    ``T = argmin_T mean_n CE(logits_n / T, target_n)``. The problem is convex in ``1 / T``; it is solved to the
    precision of the logits by Halley's method inside a bracket. Dividing by ``T > 0`` keeps the order of the classes,
    so accuracy does not change.

    Args:
        minimum: the smallest temperature, above 0; a model that is right on every sample would get 0.
        maximum: the largest temperature; a model no better than chance would get infinity.
        ignore_index: samples with this target are ignored.

    Attributes:
        temperature: [] the fitted T, empty before `fit`.

    Shapes:
        logits: [..., C] or, binary, [N]; target: [...] class indices.

    Raises:
        ValueError: not ``0 < minimum < maximum``; input that `fit` can't use; use before `fit`.

    Warns:
        UserWarning: the optimum lies outside ``[minimum, maximum]`` and was clamped.

    Source:
        Guo, Pleiss, Sun, Weinberger, 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599. Common code
        takes a fixed number of L-BFGS steps at a small learning rate and may stop before the optimum; this doesn't.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0]]).repeat(4, 1)
        >>> calibrator = TemperatureScaling().fit(logits, torch.tensor([0, 0, 0, 1]))
        >>> torch.softmax(calibrator(logits[0]), dim=-1)
        tensor([0.7500, 0.2500])
    """

    learned: ClassVar[tuple[str, ...]] = ("temperature",)
    keeps_argmax: ClassVar[bool] = True
    takes_binary: ClassVar[bool] = True
    temperature: Tensor

    def __init__(self, minimum: float = 0.05, maximum: float = 20.0, ignore_index: int = -100) -> None:
        super().__init__(ignore_index)
        check_number("TemperatureScaling", "minimum", minimum, above=0)
        check_number("TemperatureScaling", "maximum", maximum, above=minimum)
        self.minimum = minimum
        self.maximum = maximum

    def _fit(self, logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"]) -> dict[str, Tensor]:
        if logits.ndim == 1:
            logits = torch.stack([torch.zeros_like(logits), logits], dim=-1)
        with torch.no_grad():
            inverse = 1.0
            # The optimum on every k-th row is close to that on all rows, so most steps are cheap.
            for size in (_SAMPLE, len(logits) // 16):
                if _SAMPLE <= size <= len(logits) // 4:
                    every = len(logits) // size
                    inverse = optimal_inverse_temperature(
                        logits[::every].contiguous(), target[::every], 1 / self.maximum, 1 / self.minimum, inverse
                    )
            inverse = optimal_inverse_temperature(logits, target, 1 / self.maximum, 1 / self.minimum, inverse)
        temperature = min(max(1 / inverse, self.minimum), self.maximum)
        if inverse in (1 / self.maximum, 1 / self.minimum):
            warnings.warn(
                f"TemperatureScaling: the best temperature lies outside [{self.minimum:g}, "
                f"{self.maximum:g}] and was clamped to {temperature:g}; at the lower end the model is right "
                "on (nearly) every sample, at the upper end it is no better than chance.",
                stacklevel=3,
            )
        return {"temperature": torch.tensor(temperature, dtype=torch.float64)}

    def _calibrate(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (self._widened(logits) / self.temperature).to(logits.dtype)


def optimal_inverse_temperature(
    logits: Float[Tensor, "rows classes"],
    target: Int[Tensor, " rows"],
    lowest: float,
    highest: float,
    start: float = 1.0,
) -> float:
    """The inverse temperature in [lowest, highest] of smallest mean cross-entropy, by Halley's method in a bracket."""
    low, high = lowest, highest
    inverse = min(max(start, low), high)
    for _ in range(200):
        slope, curvature, change = _derivatives(logits, target, inverse)
        if slope == 0.0:
            # Without curvature too, the other classes' probabilities rounded to 0: the sharper, the better.
            certain = curvature == 0.0 and bool((logits != logits[:, :1]).any())
            return highest if certain else inverse
        if slope > 0:
            high = inverse
        else:
            low = inverse
        if low >= high:
            return inverse
        denominator = 2 * curvature**2 - slope * change
        step = -2 * slope * curvature / denominator if denominator > 0 else math.copysign(math.inf, -slope)
        following = inverse + step
        if not low < following < high:
            # At an end of the range that was never tried, try the end itself; inside, halve the bracket.
            end = highest if slope < 0 and high == highest else lowest if slope > 0 and low == lowest else None
            following = math.sqrt(low * high) if end is None or end == inverse else end
        # The error after a step is of the order of the step cubed.
        if abs(following - inverse) <= 1e-5 * inverse:
            return following
        inverse = following
    return inverse


def _derivatives(
    logits: Float[Tensor, "rows classes"], target: Int[Tensor, " rows"], inverse: float
) -> tuple[float, float, float]:
    """The first three derivatives of the mean cross-entropy of ``inverse * logits`` with respect to `inverse`.

    Terms are in the logits' precision, sums over rows in float64.
    """
    rows = max(_CHUNK // logits.shape[-1], 1)
    total = torch.zeros(3, dtype=torch.float64, device=logits.device)
    for scores, labels in zip(torch.split(logits, rows), torch.split(target, rows), strict=True):
        scores = scores - scores.amax(dim=-1, keepdim=True)
        mass = scores.mul(inverse).exp_()
        norm = mass.sum(dim=-1)
        weighted = mass.mul_(scores)
        mean = weighted.sum(dim=-1).div_(norm)
        square = weighted.mul_(scores).sum(dim=-1).div_(norm)
        cube = weighted.mul_(scores).sum(dim=-1).div_(norm)
        slope = (mean - pick(scores, labels)).sum(dtype=torch.float64)
        mean, square, cube = mean.double(), square.double(), cube.double()
        total += torch.stack([slope, (square - mean.square()).sum(), (cube - 3 * mean * square + 2 * mean**3).sum()])
    slope, curvature, change = (total / len(logits)).tolist()
    return slope, curvature, change
