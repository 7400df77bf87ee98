"""The area under the risk-coverage curve (AURC), and its excess over the best possible order (E-AURC)."""

from typing import ClassVar, NamedTuple, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.base import PredictionMetric
from lightning_losses.metrics.predictions import (
    MetricOptions,
    Options,
    Predictions,
    Task,
    checked_predictions,
    shows_options,
)
from lightning_losses.numerics.probabilities import full_precision


class RiskCoverage(NamedTuple):
    """The error rate (`risk`) among the most confident fraction (`coverage`) of the samples."""

    coverage: Tensor
    risk: Tensor


@shows_options(checked_predictions)
def area_under_risk_coverage(
    predictions: Float[Tensor, "..."], target: Int[Tensor, "..."], *, excess: bool = False, **options: Unpack[Options]
) -> Float[Tensor, ""]:
    """Area under the risk-coverage curve; see `AreaUnderRiskCoverage`."""
    return _area(*_given("area_under_risk_coverage", predictions, target, **options), excess)


@shows_options(checked_predictions)
def risk_coverage_curve(
    predictions: Float[Tensor, "..."], target: Int[Tensor, "..."], **options: Unpack[Options]
) -> RiskCoverage:
    """The risk at each coverage ``k / N``, k = 1 to N; equal confidences share their mean error.

    Example:
        >>> curve = risk_coverage_curve(torch.tensor([2.0, -1.0]), torch.tensor([1, 1]), inputs="logits", task="binary")
        >>> curve.risk.tolist()
        [0.0, 0.5]
    """
    risk = _risk(*_given("risk_coverage_curve", predictions, target, **options))
    count = torch.arange(1, len(risk) + 1, dtype=risk.dtype, device=risk.device)
    return RiskCoverage(count / max(len(risk), 1), risk)


class AreaUnderRiskCoverage(PredictionMetric):
    """The area under the risk-coverage curve: whether confident predictions are right more often than others.

    ``(1 / N) sum_k risk_k``, where ``risk_k`` is the error rate among the k most confident samples. Equal confidences
    count with their expected value over random orders, so that the order of the samples does not matter. The excess is
    the difference from the best possible value at this accuracy, that of an order with every error last.

    Args:
        excess: E-AURC, 0 for a perfect order.
        **options: `inputs`, `task` and more: see `MetricOptions`. Binary predictions mean class 1 from 0.5 on.

    Shapes:
        predictions: [N, C], or [N] for binary; target: [N].

    Returns:
        A float64 scalar; NaN without samples. Some code multiplies it by 1000.

    Raises:
        ValueError: shapes that do not fit; NaN, targets or probabilities out of range.

    Source:
        Geifman, Uziel, El-Yaniv, 2019, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers",
        arXiv:1805.08206. Their excess subtracts a closed form for large N; this subtracts the exact sum, as in the code
        of Kim et al., 2021 (PS-KD).

    Example:
        >>> metric = AreaUnderRiskCoverage(inputs="probabilities")
        >>> metric(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1])).item()
        0.25
    """

    row_names: ClassVar[tuple[str, ...]] = ("confidence", "error")
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "binary")
    batched = True

    def __init__(self, *, excess: bool = False, **options: Unpack[MetricOptions]) -> None:
        super().__init__(**options)
        self.excess = excess

    def _rows(self, given: Predictions) -> tuple[Tensor, ...]:
        return _confidence_and_error(given)

    def _statistic(self, *rows: Tensor) -> Tensor:
        return _area(rows[0], rows[1], self.excess)


def _given(
    name: str, predictions: Tensor, target: Tensor, **options: Unpack[Options]
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    tasks = AreaUnderRiskCoverage.tasks
    return _confidence_and_error(checked_predictions(name, predictions, target, tasks=tasks, **options))


def _confidence_and_error(given: Predictions) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    probabilities = full_precision(given.probabilities())
    if given.task == "binary":
        probabilities = torch.stack([1 - probabilities, probabilities], dim=-1)
        confidence, prediction = probabilities.amax(dim=-1), (probabilities[:, 1] >= 0.5).long()
    else:
        confidence, prediction = probabilities.max(dim=-1)
    # A NaN confidence has no place in the order and is neither right nor wrong, so the value becomes NaN.
    return confidence, (prediction != given.target).to(probabilities).masked_fill(confidence.isnan(), torch.nan)


def _risk(confidence: Float[Tensor, "*resamples rows"], error: Float[Tensor, "*resamples rows"]) -> Tensor:
    ordered, order = confidence.sort(descending=True)
    begins = torch.cat([torch.ones_like(ordered[..., :1]), ordered.diff().abs()], dim=-1) > 0
    group = begins.long().cumsum(dim=-1) - 1
    zeros, errors = torch.zeros_like(ordered, dtype=torch.float64), error.gather(-1, order).double()
    sums = zeros.scatter_add(-1, group, errors)
    sizes = zeros.scatter_add(-1, group, torch.ones_like(errors))
    shared = (sums / sizes).gather(-1, group)
    return shared.cumsum(dim=-1) / torch.arange(1, error.shape[-1] + 1, device=error.device)


def _area(confidence: Tensor, error: Tensor, excess: bool) -> Float[Tensor, "*resamples"]:
    area = _risk(confidence, error).mean(dim=-1)
    if not excess:
        return area
    worst_last = error.double().sort().values
    best = worst_last.cumsum(dim=-1) / torch.arange(1, error.shape[-1] + 1, device=error.device)
    return area - best.mean(dim=-1)
