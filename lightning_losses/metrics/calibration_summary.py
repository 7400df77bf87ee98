"""The metrics of confidence side by side, with their intervals: what monitors log and tables show."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.area_under_risk_coverage import AreaUnderRiskCoverage, area_under_risk_coverage
from lightning_losses.metrics.bootstrap import Interval, proportion_interval
from lightning_losses.metrics.brier_score import BrierScore, brier_score
from lightning_losses.metrics.calibration_error import CalibrationError, calibration_error
from lightning_losses.metrics.negative_log_likelihood import NegativeLogLikelihood, negative_log_likelihood
from lightning_losses.metrics.predictions import Inputs, checked_predictions

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
        num_bins: of every binned error.
        ignore_index: rows with this target are left out.

    Returns:
        By name: "accuracy"; "nll", "brier"; "ece" (equal width), "adaptive_ece" (equal mass), "debiased_rmsce" (equal
        mass), "mce" (equal mass), "classwise_ece" (equal width); "aurc" and "e_aurc". NaN of no samples.

    Raises:
        ValueError: shapes that do not fit; NaN, targets or probabilities out of range.

    Example:
        >>> summary = calibration_summary(torch.zeros(2, 2), torch.tensor([0, 1]), inputs="logits")
        >>> summary["brier"].item(), summary["accuracy"].item()
        (0.5, 0.5)
    """
    predictions, target = checked_predictions(
        "calibration_summary", predictions, target, inputs=inputs, ignore_index=ignore_index
    )
    return dict(zip(SUMMARY, _values(predictions, target, inputs, num_bins), strict=True))


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
    """The interval of every value of `calibration_summary`; NaN for "mce", of which none holds.

    Wilson's for accuracy, `calibration_interval` for errors in bins, `bootstrap_interval` for the others.
    """
    predictions, target = checked_predictions(
        "calibration_intervals", predictions, target, inputs=inputs, ignore_index=ignore_index
    )
    options: dict[str, Any] = {"inputs": inputs, "keep_rows": True, "validate": False}
    binned_options = {**options, "num_bins": num_bins}
    metrics = {
        "nll": NegativeLogLikelihood(**options),
        "brier": BrierScore(**options),
        "ece": CalibrationError(**binned_options),
        "adaptive_ece": CalibrationError(binning="mass", **binned_options),
        "debiased_rmsce": CalibrationError(binning="mass", norm=2, debiased=True, **binned_options),
        "classwise_ece": CalibrationError(scope="classwise", num_classes=predictions.shape[-1], **binned_options),
        "aurc": AreaUnderRiskCoverage(inputs=inputs, validate=False),
        "e_aurc": AreaUnderRiskCoverage(inputs=inputs, excess=True, validate=False),
    }
    accuracy = (predictions.argmax(dim=-1) == target).double().mean()
    intervals = {"accuracy": proportion_interval(accuracy, max(len(target), 1), level)}
    for name, metric in metrics.items():
        metric.update(predictions, target)
        intervals[name] = metric.interval(level, resamples=resamples, seed=seed)
    nothing = torch.full_like(accuracy, torch.nan)
    return {name: intervals.get(name, Interval(nothing, nothing)) for name in SUMMARY}


def _values(predictions: Tensor, target: Tensor, inputs: Inputs, num_bins: int) -> list[Float[Tensor, ""]]:
    def error(**options: object) -> Tensor:
        return calibration_error(predictions, target, inputs=inputs, num_bins=num_bins, validate=False, **options)  # type: ignore[arg-type]

    return [
        (predictions.argmax(dim=-1) == target).double().mean(),
        negative_log_likelihood(predictions, target, inputs=inputs, validate=False),
        brier_score(predictions, target, inputs=inputs, validate=False),
        error(),
        error(binning="mass"),
        error(binning="mass", norm=2, debiased=True),
        error(binning="mass", norm="max"),
        error(scope="classwise"),
        area_under_risk_coverage(predictions, target, inputs=inputs, validate=False),
        area_under_risk_coverage(predictions, target, inputs=inputs, excess=True, validate=False),
    ]
