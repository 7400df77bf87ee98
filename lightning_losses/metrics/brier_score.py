"""The Brier score and its decomposition into reliability, resolution and uncertainty."""

from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.base import PredictionMetric
from lightning_losses.metrics.bins import bin_sums, binned, check_bins, confidences
from lightning_losses.metrics.bootstrap import Interval
from lightning_losses.metrics.predictions import Inputs, Task, checked_predictions
from lightning_losses.numerics.bins import width_bins


class BrierParts(NamedTuple):
    """The Brier score in parts: ``score = reliability - resolution + uncertainty + within_bins``."""

    reliability: Tensor
    resolution: Tensor
    uncertainty: Tensor
    within_bins: Tensor


def brier_score(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    inputs: Inputs,
    task: Task = "multiclass",
    ignore_index: int = -100,
    validate: bool = True,
) -> Float[Tensor, ""]:
    """Mean Brier score; see `BrierScore`.

    Example:
        >>> brier_score(torch.zeros(2, 4), torch.tensor([0, 3]), inputs="logits").item()
        0.75
    """
    predictions, target = checked_predictions(
        "brier_score", predictions, target, inputs=inputs, task=task, ignore_index=ignore_index, validate=validate
    )
    confidence, outcome = confidences(predictions, target, inputs=inputs, task=task, scope="classwise")
    return _squares(confidence, outcome).mean()


def brier_decomposition(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    inputs: Inputs,
    task: Task = "multiclass",
    num_bins: int = 15,
    ignore_index: int = -100,
    validate: bool = True,
) -> BrierParts:
    """The parts of the Brier score; see `BrierDecomposition`."""
    check_bins("brier_decomposition", num_bins)
    predictions, target = checked_predictions(
        "brier_decomposition",
        predictions,
        target,
        inputs=inputs,
        task=task,
        ignore_index=ignore_index,
        validate=validate,
    )
    confidence, outcome = confidences(predictions, target, inputs=inputs, task=task, scope="classwise")
    return BrierParts(*_parts(_part_sums(confidence, outcome, num_bins)))


class BrierScore(PredictionMetric):
    """The Brier score: the mean squared distance of the probabilities from what came true.

    ``(1 / N) sum_n sum_c (p_nc - 1[target_n = c])²``, in [0, 2]; for multi-label the sum is over the labels. For
    binary predictions only the probability of class 1 counts, ``(p_n - target_n)²`` in [0, 1], which is half of the
    two-class sum.

    Args:
        inputs: "logits" or "probabilities".
        task: "multiclass", "binary" or "multilabel".
        ignore_index: rows with this target are left out.
        keep_rows: keep each sample's value, for `interval`.
        **kwargs: as of `torchmetrics.Metric`.

    Shapes:
        predictions: [N, C], [N] for binary or [N, L] for multi-label; target: [N] or [N, L].

    Returns:
        A float64 scalar; NaN of no samples.

    Raises:
        ValueError: shapes that do not fit; NaN, targets or probabilities out of range.

    Source:
        Brier, 1950, "Verification of Forecasts Expressed in Terms of Probability".

    Example:
        >>> BrierScore(inputs="logits")(torch.zeros(2, 4), torch.tensor([0, 3])).item()
        0.75
    """

    row_names: ClassVar[tuple[str, ...]] = ("values",)

    def __init__(
        self,
        *,
        inputs: Inputs,
        task: Task = "multiclass",
        ignore_index: int = -100,
        keep_rows: bool = False,
        validate: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            inputs=inputs,
            task=task,
            ignore_index=ignore_index,
            keep_rows=keep_rows,
            validate=validate,
            streaming_shape=(2,),
            **kwargs,
        )

    def _rows(self, predictions: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        return (_squares(*confidences(predictions, target, inputs=self.inputs, task=self.task, scope="classwise")),)

    def _sums(self, *rows: Tensor) -> Tensor:
        return torch.stack([rows[0].sum(), rows[0].new_tensor(len(rows[0]))])

    def _value(self, sums: Tensor) -> Tensor:
        return sums[0] / sums[1]


class BrierDecomposition(PredictionMetric):
    """The Brier score in parts: ``reliability - resolution + uncertainty + within_bins``, summed over the classes.

    With mean forecasts f_b and outcomes o_b in equal-width bins of each class's probability, and the class's frequency
    o: reliability ``sum_b w_b (f_b - o_b)²`` (0 when calibrated), resolution ``sum_b w_b (o_b - o)²`` (how far the
    forecasts tell cases apart), uncertainty ``o (1 - o)``. The three make up the score of forecasts that are constant
    within each bin; what the variation within bins adds is the fourth part, so that the sum is exact.

    Args:
        num_classes: C, or the labels of multi-label; 1 for binary.
        inputs: "logits" or "probabilities".
        task: "multiclass", "binary" or "multilabel".
        num_bins: at least 1.
        ignore_index: rows with this target are left out.
        keep_rows: keep each sample's probabilities and outcomes.
        **kwargs: as of `torchmetrics.Metric`.

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

    def __init__(
        self,
        num_classes: int = 1,
        *,
        inputs: Inputs,
        task: Task = "multiclass",
        num_bins: int = 15,
        ignore_index: int = -100,
        keep_rows: bool = False,
        validate: bool = True,
        **kwargs: Any,
    ) -> None:
        check_bins(type(self).__name__, num_bins)
        super().__init__(
            inputs=inputs,
            task=task,
            ignore_index=ignore_index,
            keep_rows=keep_rows,
            validate=validate,
            streaming_shape=(4, num_bins, num_classes),
            **kwargs,
        )
        self.num_classes = num_classes
        self.num_bins = num_bins

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """The parts by name."""
        return BrierParts(*super().compute())._asdict()

    def _rows(self, predictions: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        return confidences(predictions, target, inputs=self.inputs, task=self.task, scope="classwise")

    def _sums(self, *rows: Tensor) -> Tensor:
        return _part_sums(rows[0], rows[1], self.num_bins)

    def _value(self, sums: Tensor) -> Tensor:
        return _parts(sums)

    def _interval(self, rows: tuple[Tensor, ...], level: float, resamples: int, seed: int) -> Interval:
        raise ValueError(
            f"{type(self).__name__}: noise in the bins biases its parts, and no interval of them holds; take those of "
            "BrierScore and of RMSCalibrationError(debiased=True)."
        )


def _squares(confidence: Tensor, outcome: Tensor) -> Float[Tensor, " rows"]:
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
