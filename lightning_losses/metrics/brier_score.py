"""The Brier score and its decomposition into reliability, resolution and uncertainty."""

from typing import ClassVar, NamedTuple, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.base import MeanMetric, PredictionMetric
from lightning_losses.metrics.bins import bin_sums, binned, check_bins, confidences
from lightning_losses.metrics.bootstrap import Interval
from lightning_losses.metrics.predictions import (
    MetricOptions,
    Options,
    Predictions,
    checked_predictions,
    shows_options,
)
from lightning_losses.numerics.bins import width_bins
from lightning_losses.numerics.checks import check_count


class BrierParts(NamedTuple):
    """The Brier score in parts: ``score = reliability - resolution + uncertainty + within_bins``."""

    reliability: Tensor
    resolution: Tensor
    uncertainty: Tensor
    within_bins: Tensor


@shows_options(checked_predictions)
def brier_score(
    predictions: Float[Tensor, "..."], target: Int[Tensor, "..."], **options: Unpack[Options]
) -> Float[Tensor, ""]:
    """Mean Brier score; see `BrierScore`.

    Example:
        >>> brier_score(torch.zeros(2, 4), torch.tensor([0, 3]), inputs="logits").item()
        0.75
    """
    return _squares(checked_predictions("brier_score", predictions, target, **options)).mean()


@shows_options(checked_predictions)
def brier_decomposition(
    predictions: Float[Tensor, "..."], target: Int[Tensor, "..."], *, num_bins: int = 15, **options: Unpack[Options]
) -> BrierParts:
    """The parts of the Brier score; see `BrierDecomposition`."""
    check_bins("brier_decomposition", num_bins)
    given = checked_predictions("brier_decomposition", predictions, target, **options)
    return BrierParts(*_parts(_part_sums(*confidences(given, "classwise"), num_bins)))


class BrierScore(MeanMetric):
    """The Brier score: the mean squared distance of the probabilities from the outcomes.

    ``(1 / N) sum_n sum_c (p_nc - 1[target_n = c])²``, in [0, 2]; for multi-label the sum is over the labels. For
    binary predictions only the probability of class 1 counts, ``(p_n - target_n)²`` in [0, 1], which is half of the
    two-class sum.

    Args:
        **options: `inputs`, `task` and more: see `MetricOptions`.

    Shapes:
        predictions: [N, C], [N] for binary or [N, L] for multi-label; target: [N] or [N, L].

    Returns:
        A float64 scalar; NaN without samples.

    Raises:
        ValueError: shapes that do not fit; NaN, targets or probabilities out of range.

    Source:
        Brier, 1950, "Verification of Forecasts Expressed in Terms of Probability".

    Example:
        >>> BrierScore(inputs="logits")(torch.zeros(2, 4), torch.tensor([0, 3])).item()
        0.75
    """

    def _rows(self, given: Predictions) -> tuple[Tensor, ...]:
        return (_squares(given),)


class BrierDecomposition(PredictionMetric):
    """The Brier score in parts: ``reliability - resolution + uncertainty + within_bins``, summed over the classes.

    With mean forecasts f_b and outcomes o_b in equal-width bins of each class's probability, and the class's frequency
    o: reliability ``sum_b w_b (f_b - o_b)²`` (0 when calibrated), resolution ``sum_b w_b (o_b - o)²`` (how well the
    forecasts separate cases), uncertainty ``o (1 - o)``. These three add up to the score of forecasts that are constant
    within each bin. The fourth part, ``within_bins``, is the effect of variation within bins, so that the sum is exact.

    Args:
        num_classes: C, or the labels of multi-label; 1 for binary.
        num_bins: at least 1.
        **options: `inputs`, `task` and more: see `MetricOptions`.

    Shapes:
        predictions: [N, C], [N] for binary or [N, L] for multi-label; target: [N] or [N, L].

    Returns:
        The four parts by name, float64 scalars.

    Raises:
        ValueError: shapes that do not fit; NaN, targets or probabilities out of range.

    Source:
        Murphy, 1973, "A New Vector Partition of the Probability Score"; Stephenson, Coelho, Jolliffe, 2008, "Two Extra
        Components in the Brier Score Decomposition" (the variation within bins).

    Example:
        >>> metric = BrierDecomposition(2, inputs="probabilities")
        >>> parts = metric(torch.tensor([[0.5, 0.5], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> parts["uncertainty"].item(), parts["reliability"].item()
        (0.5, 0.0)
    """

    row_names: ClassVar[tuple[str, ...]] = ("confidence", "outcome")

    def __init__(self, num_classes: int = 1, *, num_bins: int = 15, **options: Unpack[MetricOptions]) -> None:
        check_bins(type(self).__name__, num_bins)
        check_count(type(self).__name__, "num_classes", num_classes)
        super().__init__(sums_shape=(4, num_bins, num_classes), **options)
        self.num_classes = num_classes
        self.num_bins = num_bins

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """The parts by name."""
        return BrierParts(*super().compute())._asdict()

    def _rows(self, given: Predictions) -> tuple[Tensor, ...]:
        return confidences(given, "classwise")

    def _sums(self, *rows: Tensor) -> Tensor:
        return _part_sums(rows[0], rows[1], self.num_bins)

    def _value(self, sums: Tensor) -> Tensor:
        return _parts(sums)

    def _interval(self, rows: tuple[Tensor, ...], level: float, resamples: int, seed: int) -> Interval:
        raise ValueError(
            f"{type(self).__name__}: noise in the bins biases its parts, and they have no valid interval; use those of "
            "BrierScore and of RMSCalibrationError(debiased=True)."
        )


def _squares(given: Predictions) -> Float[Tensor, " rows"]:
    confidence, outcome = confidences(given, "classwise")
    return (confidence.double() - outcome.double()).square().sum(dim=-1)


def _part_sums(confidence: Tensor, outcome: Tensor, num_bins: int) -> Float[Tensor, "four bins columns"]:
    index = width_bins(confidence, num_bins)
    square = (confidence.double() - outcome.double()).square()
    return torch.cat([bin_sums(confidence, outcome, index, num_bins), bin_sums(square, square, index, num_bins)[1:2]])


def _parts(sums: Float[Tensor, "four bins columns"]) -> Float[Tensor, " four"]:
    bins = binned(sums[:3])
    total = bins.samples.sum(dim=0)
    weight = bins.samples / total
    frequency = sums[2].sum(dim=0) / total
    reliability = (weight * (bins.confidence - bins.outcome).square()).sum()
    resolution = (weight * (bins.outcome - frequency).square()).sum()
    uncertainty = (frequency * (1 - frequency)).sum()
    score = (sums[3].sum(dim=0) / total).sum()
    return torch.stack([reliability, resolution, uncertainty, score - reliability + resolution - uncertainty])
