"""The squared kernel calibration error (SKCE): calibration of the whole probability vector, without bins."""

import math
from collections.abc import Iterator
from typing import ClassVar, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.base import PredictionMetric
from lightning_losses.metrics.bootstrap import Interval, check_resampling, quantile_of
from lightning_losses.metrics.predictions import (
    MetricOptions,
    Options,
    Predictions,
    Task,
    checked_predictions,
    shows_options,
)
from lightning_losses.numerics.checks import check_number

_CHUNK = 1 << 22
_MEDIAN_ROWS = 1000


@shows_options(checked_predictions)
def kernel_calibration_error(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    bandwidth: float | None = None,
    **options: Unpack[Options],
) -> Float[Tensor, ""]:
    """Squared kernel calibration error; see `KernelCalibrationError`."""
    name = "kernel_calibration_error"
    if bandwidth is not None:
        check_number(name, "bandwidth", bandwidth, above=0)
    given = checked_predictions(name, predictions, target, tasks=KernelCalibrationError.tasks, **options)
    return _error(*_vectors(given), bandwidth)


class KernelCalibrationError(PredictionMetric):
    """The unbiased squared kernel calibration error: calibration of the whole probability vector, without bins.

    ``2 / (N (N - 1)) sum_{i<j} k(p_i, p_j) (e_i - p_i)·(e_j - p_j)`` with one-hot targets e and the kernel
    ``k(p, q) = exp(-||p - q||_2 / ν)``. Its expectation is 0 for a calibrated model, so it can be negative. It costs N²
    C operations, in chunks of bounded memory.

    Args:
        bandwidth: ν, above 0; None takes the median distance between the probabilities (of 1000 evenly spaced rows).
        **options: `inputs`, `task` and more: see `MetricOptions`. Binary predictions are used as two-class vectors.

    Shapes:
        predictions: [N, C], or [N] for binary; target: [N].

    Returns:
        A float64 scalar; NaN with fewer than 2 samples.

    Raises:
        ValueError: shapes that do not fit; a bandwidth of 0 or less; NaN, targets or probabilities out of range.

    Source:
        Widmann, Lindsten, Zachariah, 2019, "Calibration Tests in Multi-class Classification: A Unifying Framework",
        arXiv:1910.11385 (the estimator SKCE_uq with a Laplacian kernel times the identity).

    Example:
        >>> metric = KernelCalibrationError(inputs="probabilities", bandwidth=1.0)
        >>> metric(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([1, 1])).item()
        2.0
    """

    row_names: ClassVar[tuple[str, ...]] = ("probabilities", "residuals")
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "binary")
    plot_lower_bound: float | None = None

    def __init__(self, *, bandwidth: float | None = None, **options: Unpack[MetricOptions]) -> None:
        if bandwidth is not None:
            check_number(type(self).__name__, "bandwidth", bandwidth, above=0)
        super().__init__(**options)
        self.bandwidth = bandwidth

    def _interval(self, rows: tuple[Tensor, ...], level: float, resamples: int, seed: int) -> Interval:
        """Inverts a test; for a calibrated model, where the terms of a row have mean 0, uses a wild bootstrap.

        The variance of the noise that is linear in the rows is at most the error times the kernel's largest eigenvalue.
        The ratio of this variance to the error is estimated, and bounded by that eigenvalue.
        """
        check_resampling(type(self).__name__, level, resamples)
        probabilities, residuals = rows
        count = len(probabilities)
        if count < 2:
            return Interval(probabilities.new_tensor(math.nan), probabilities.new_tensor(math.nan))
        generator = torch.Generator().manual_seed(seed)
        signs = (torch.randint(2, (count, resamples), generator=generator) * 2 - 1).to(probabilities)
        normal = torch.randn(resamples, generator=generator, dtype=torch.float64).to(probabilities.device)
        quadratic, squares, total, means = torch.zeros_like(normal), 0.0, 0.0, []
        for start, terms in _pairs(probabilities, residuals, _bandwidth(probabilities, self.bandwidth)):
            quadratic += ((terms @ signs) * signs[start : start + len(terms)]).sum(dim=0)
            squares += float(terms.square().sum())
            total += float(terms.sum())
            means.append(terms.sum(dim=-1) / (count - 1))
        quadratic = quadratic / (count * (count - 1))
        each = torch.cat(means)
        # Summed in the same order as the value, so that the interval contains it exactly.
        estimate, tail = total / (count * (count - 1)), (1 - level) / 2
        linear = float(each.var()) - squares / (count * (count - 1) ** 2)
        most = math.sqrt(squares + float(residuals.square().sum(dim=-1).square().sum())) / count
        ratio = min(linear / estimate, most) if estimate > 0 and linear > 0 else most

        def end(quantile: float) -> float:
            low, high = 0.0, 2.0
            for _ in range(24):
                error = (low + high) / 2
                values = error + 2 * math.sqrt(ratio * error / count) * normal + quadratic
                low, high = (error, high) if quantile_of(values, quantile) <= estimate else (low, error)
            return low

        rejected = (1 + int((quadratic >= estimate).sum())) / (1 + resamples) < 2 * tail
        ends = (min(end(1 - tail) if rejected else 0.0, estimate), max(end(tail), estimate))
        return Interval(*(probabilities.new_tensor(value) for value in ends))

    def _rows(self, given: Predictions) -> tuple[Tensor, ...]:
        return _vectors(given)

    def _statistic(self, *rows: Tensor) -> Tensor:
        return _error(rows[0], rows[1], self.bandwidth)


def _vectors(given: Predictions) -> tuple[Float[Tensor, "rows classes"], Float[Tensor, "rows classes"]]:
    probabilities, target = given.probabilities().double(), given.target
    if given.task == "binary":
        probabilities = torch.stack([1 - probabilities, probabilities], dim=-1)
    residuals = -probabilities
    residuals[torch.arange(len(target), device=target.device), target] += 1
    return probabilities, residuals


def _error(probabilities: Tensor, residuals: Tensor, bandwidth: float | None) -> Float[Tensor, ""]:
    count = len(probabilities)
    if count < 2:
        return probabilities.new_tensor(math.nan)
    nu = _bandwidth(probabilities, bandwidth)
    total = sum(rows.sum() for _, rows in _pairs(probabilities, residuals, nu))
    return torch.as_tensor(total / (count * (count - 1)))


def _bandwidth(probabilities: Tensor, bandwidth: float | None) -> float:
    if bandwidth is not None:
        return bandwidth
    median = float(torch.pdist(probabilities[:: math.ceil(len(probabilities) / _MEDIAN_ROWS)]).median())
    # If all rows are equal, any bandwidth gives the same kernel.
    return median if median > 0 else 1.0


def _pairs(probabilities: Tensor, residuals: Tensor, nu: float) -> Iterator[tuple[int, Float[Tensor, "some rows"]]]:
    """The terms of all pairs i != j (0 where i = j), some rows at a time, with the number of the first row."""
    size = max(_CHUNK // len(probabilities), 1)
    for start in range(0, len(probabilities), size):
        some = slice(start, start + size)
        # Exact differences; from inner products, the distance of close rows would be rounding error.
        distance = torch.cdist(probabilities[some], probabilities, compute_mode="donot_use_mm_for_euclid_dist")
        term = torch.exp(-distance / nu) * (residuals[some] @ residuals.T)
        own = torch.arange(len(term), device=term.device)
        term[own, own + start] = 0.0
        yield start, term
