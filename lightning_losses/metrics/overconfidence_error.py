"""The overconfidence error and the underconfidence error."""

from typing import ClassVar, Literal, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.bins import Binned, bin_sums, binned, bins_of, check_bins, confidences
from lightning_losses.metrics.calibration_error import CalibrationError, refuse_fixed
from lightning_losses.metrics.predictions import MetricOptions, Options, Task, checked_predictions, shows_options
from lightning_losses.numerics.checks import check_choice

Direction = Literal["over", "under"]


@shows_options(checked_predictions)
def overconfidence_error(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    direction: Direction = "over",
    num_bins: int = 15,
    **options: Unpack[Options],
) -> Float[Tensor, ""]:
    """Over- or underconfidence error; see `OverconfidenceError`."""
    name = "overconfidence_error"
    refuse_fixed(name, options, "norm", "weighting", "debiased", "binning", "scope")
    check_bins(name, num_bins)
    check_choice(name, "direction", direction, Direction)
    given = checked_predictions(name, predictions, target, tasks=OverconfidenceError.tasks, **options)
    confidence, outcome = confidences(given)
    return _error(binned(bin_sums(confidence, outcome, bins_of(confidence, num_bins), num_bins)), direction)


class OverconfidenceError(CalibrationError):
    """The overconfidence error: the part of the ECE where confidence is above accuracy, weighted by confidence.

    ``sum_b (n_b / N) confidence_b max(confidence_b - accuracy_b, 0)`` over equal-width bins; for
    ``direction="under"``, ``max(accuracy_b - confidence_b, 0)``.

    Args:
        direction: "over" or "under".
        num_bins: at least 1.
        **options: as in `CalibrationError`.

    Source:
        Thulasidasan et al., 2019, "On Mixup Training: Improved Calibration and Predictive Uncertainty for Deep Neural
        Networks", arXiv:1905.11001; the underconfidence error as in the code of MbLS (Liu et al., 2022).

    Example:
        >>> metric = OverconfidenceError(inputs="probabilities")
        >>> metric(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1])).item()
        0.1875
    """

    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "binary")

    def __init__(self, *, direction: Direction = "over", num_bins: int = 15, **options: Unpack[MetricOptions]) -> None:
        check_choice(type(self).__name__, "direction", direction, Direction)
        refuse_fixed(type(self).__name__, options, "norm", "weighting", "debiased", "binning", "scope")
        super().__init__(num_bins=num_bins, **options)
        self.direction: Direction = direction

    def _of_bins(self, bins: Binned) -> Tensor:
        return _error(bins, self.direction)

    _population = _of_bins


def _error(bins: Binned, direction: Direction) -> Float[Tensor, "*resamples"]:
    gap = bins.confidence - bins.outcome if direction == "over" else bins.outcome - bins.confidence
    return (bins.samples * bins.confidence * torch.relu(gap)).sum(dim=(-2, -1)) / bins.samples.sum(dim=(-2, -1))
