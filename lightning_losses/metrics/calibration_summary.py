"""All metrics of confidence with their intervals, as logged by monitors and shown in tables."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.area_under_risk_coverage import AreaUnderRiskCoverage
from lightning_losses.metrics.base import PredictionMetric
from lightning_losses.metrics.bootstrap import Interval, proportion_interval
from lightning_losses.metrics.brier_score import BrierScore
from lightning_losses.metrics.calibration_error import CalibrationError
from lightning_losses.metrics.negative_log_likelihood import NegativeLogLikelihood
from lightning_losses.metrics.predictions import Inputs, MetricOptions, checked_predictions

SUMMARY = (
    "accuracy",
    "nll",
    "brier",
    "ece",
    "adaptive_ece",
    "debiased_rmsce",
    "mce",
    "classwise_ece",
    "aurc",
    "e_aurc",
)


def calibration_summary(
    predictions: Float[Tensor, "*rows classes"],
    target: Int[Tensor, "*rows"],
    *,
    inputs: Inputs,
    num_bins: int = 15,
    ignore_index: int = -100,
) -> dict[str, Float[Tensor, ""]]:
    """Accuracy, scores and calibration errors of multi-class predictions.

    Args:
        predictions: [..., C].
        target: [...] class indices.
        inputs: "logits" or "probabilities".
        num_bins: number of bins of every binned error.
        ignore_index: rows with this target are left out.

    Returns:
        By name: "accuracy"; "nll", "brier"; "ece" (equal width), "adaptive_ece" (equal mass), "debiased_rmsce" (equal
        mass), "mce" (equal mass), "classwise_ece" (equal width); "aurc" and "e_aurc". NaN without samples.

    Raises:
        ValueError: shapes that do not fit; NaN, targets or probabilities out of range.

    Example:
        >>> summary = calibration_summary(torch.zeros(2, 2), torch.tensor([0, 1]), inputs="logits")
        >>> summary["brier"].item(), summary["accuracy"].item()
        (0.5, 0.5)
    """
    predictions, target, *_ = checked_predictions(
        "calibration_summary", predictions, target, inputs=inputs, ignore_index=ignore_index
    )
    summary = {"accuracy": (predictions.argmax(dim=-1) == target).double().mean()}
    for name, metric in _metrics(inputs, num_bins, predictions.shape[-1], keep_rows=False).items():
        metric.update(predictions, target)
        summary[name] = metric.compute()
    return summary


def calibration_intervals(
    predictions: Float[Tensor, "*rows classes"],
    target: Int[Tensor, "*rows"],
    *,
    inputs: Inputs,
    num_bins: int = 15,
    ignore_index: int = -100,
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, Interval]:
    """The interval of every value of `calibration_summary`; NaN for "mce", which has no valid interval.

    Wilson's for accuracy, `calibration_interval` for errors in bins, `bootstrap_interval` for the others.
    """
    predictions, target, *_ = checked_predictions(
        "calibration_intervals", predictions, target, inputs=inputs, ignore_index=ignore_index
    )
    accuracy = (predictions.argmax(dim=-1) == target).double().mean()
    intervals = {"accuracy": proportion_interval(accuracy, max(len(target), 1), level)}
    for name, metric in _metrics(inputs, num_bins, predictions.shape[-1], keep_rows=True).items():
        metric.update(predictions, target)
        nothing = torch.full_like(accuracy, torch.nan)
        ends = Interval(nothing, nothing) if name == "mce" else metric.interval(level, resamples=resamples, seed=seed)
        intervals[name] = ends
    return intervals


def _metrics(inputs: Inputs, num_bins: int, num_classes: int, *, keep_rows: bool) -> dict[str, PredictionMetric]:
    """The metric of every value except the accuracy, computed on this process alone."""
    options: MetricOptions = {"inputs": inputs, "keep_rows": keep_rows, "validate": False, "sync_on_compute": False}
    return {
        "nll": NegativeLogLikelihood(**options),
        "brier": BrierScore(**options),
        "ece": CalibrationError(num_bins=num_bins, **options),
        "adaptive_ece": CalibrationError(num_bins=num_bins, binning="mass", **options),
        "debiased_rmsce": CalibrationError(num_bins=num_bins, binning="mass", norm=2, debiased=True, **options),
        "mce": CalibrationError(num_bins=num_bins, binning="mass", norm="max", **options),
        "classwise_ece": CalibrationError(num_bins=num_bins, scope="classwise", num_classes=num_classes, **options),
        "aurc": AreaUnderRiskCoverage(**options),
        "e_aurc": AreaUnderRiskCoverage(excess=True, **options),
    }
