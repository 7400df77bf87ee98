"""The binned calibration error with any norm; every binned calibration metric is a special case of it."""

from collections.abc import Mapping
from typing import ClassVar, Literal, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.base import PredictionMetric
from lightning_losses.metrics.bins import (
    Binned,
    Binning,
    Scope,
    bin_sums,
    binned,
    bins_of,
    check_bins,
    confidences,
)
from lightning_losses.metrics.bootstrap import Interval
from lightning_losses.metrics.calibration_interval import calibration_interval
from lightning_losses.metrics.predictions import (
    MetricOptions,
    Options,
    Predictions,
    checked_predictions,
    shows_options,
)
from lightning_losses.numerics.checks import check_choice, check_count, check_number

Weighting = Literal["count", "uniform"]


@shows_options(checked_predictions)
def calibration_error(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    num_bins: int = 15,
    norm: float | Literal["max"] = 1,
    binning: Binning = "width",
    scope: Scope = "top_label",
    weighting: Weighting = "count",
    debiased: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, ""]:
    """The calibration error in bins; see `CalibrationError`."""
    _check_options("calibration_error", num_bins, norm, binning, scope, weighting, debiased)
    confidence, outcome = confidences(checked_predictions("calibration_error", predictions, target, **options), scope)
    sums = bin_sums(confidence, outcome, bins_of(confidence, num_bins, binning), num_bins)
    return _error(binned(sums), norm, weighting, debiased)


class CalibrationError(PredictionMetric):
    """The binned calibration error: the distance of confidence from accuracy.

    ``(sum_b w_b |outcome_b - confidence_b|^p)^(1/p)`` over the non-empty bins b, with mean outcomes and confidences
    and ``w_b = n_b / N``. With ``scope="classwise"`` (and for multi-label) the p-th power is averaged over the classes;
    with ``norm="max"`` the largest gap is taken. With equal-width bins only sums are kept.

    Args:
        num_bins: B, at least 1.
        norm: p, from 1 to 1000, or "max".
        binning: "width", bins ``(b / B, (b + 1) / B]``; or "mass", equally many samples in each bin, with equal
            confidences in one bin.
        scope: "top_label", the predicted class; or "classwise", each class against the rest.
        weighting: "count", ``w_b = n_b / N``; or "uniform", equal weights for non-empty bins.
        debiased: with norm 2, subtract each bin's expected squared noise ``outcome (1 - outcome) / (n_b - 1)``; bins of
            one sample then count 0, and a negative total gives 0.
        num_classes: C (or the number of labels); needed for separate classes with equal-width bins, for the shape of
            the sums.
        **options: `inputs`, `task` and more: see `MetricOptions`. Binary predictions, of class 1, are compared with its
            frequency.

    Shapes:
        predictions: [N, C], [N] for binary or [N, L] for multi-label; target: [N] or [N, L].

    Returns:
        A float64 scalar; NaN without samples.

    Raises:
        ValueError: options or shapes that do not fit; NaN, targets or probabilities out of range.

    Source:
        Naeini, Cooper, Hauskrecht, 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; Guo et al.,
        2017, arXiv:1706.04599; Nixon et al., 2019, "Measuring Calibration in Deep Learning", arXiv:1904.01685; Kumar,
        Liang, Ma, 2019, "Verified Uncertainty Calibration", arXiv:1909.10155 (debiased). torchmetrics' bins are closed
        on the left, these on the right (Guo's code): they differ only for confidences on an edge.

    Example:
        >>> metric = CalibrationError(inputs="probabilities", num_bins=10)
        >>> round(metric(torch.tensor([[0.9, 0.1], [0.7, 0.3]]), torch.tensor([0, 1])).item(), 4)
        0.4
    """

    row_names: ClassVar[tuple[str, ...]] = ("confidence", "outcome")

    def __init__(
        self,
        *,
        num_bins: int = 15,
        norm: float | Literal["max"] = 1,
        binning: Binning = "width",
        scope: Scope = "top_label",
        weighting: Weighting = "count",
        debiased: bool = False,
        num_classes: int | None = None,
        **options: Unpack[MetricOptions],
    ) -> None:
        _check_options(type(self).__name__, num_bins, norm, binning, scope, weighting, debiased)
        task = options.get("task", "multiclass")
        apart = task == "multilabel" or (task == "multiclass" and scope == "classwise")
        shape = None
        if binning == "width":
            if apart and num_classes is None:
                raise ValueError(f"{type(self).__name__}: num_classes is missing; give it: the sums are kept by class.")
            if apart:
                check_count(type(self).__name__, "num_classes", num_classes)
            shape = (3, num_bins, (num_classes or 1) if apart else 1)
        super().__init__(sums_shape=shape, **options)
        self.num_bins = num_bins
        self.norm: float | Literal["max"] = norm
        self.binning: Binning = binning
        self.scope: Scope = scope
        self.weighting: Weighting = weighting
        self.debiased = debiased
        self.num_classes = num_classes

    def _rows(self, given: Predictions) -> tuple[Tensor, ...]:
        return confidences(given, self.scope)

    def _sums(self, *rows: Tensor) -> Tensor:
        return bin_sums(rows[0], rows[1], bins_of(rows[0], self.num_bins, self.binning), self.num_bins)

    def _value(self, sums: Tensor) -> Tensor:
        return self._of_bins(binned(sums))

    def _of_bins(self, bins: Binned) -> Tensor:
        return _error(bins, self.norm, self.weighting, self.debiased)

    def _population(self, bins: Binned) -> Tensor:
        return _error(bins, self.norm, self.weighting, debiased=False)

    def _interval(self, rows: tuple[Tensor, ...], level: float, resamples: int, seed: int) -> Interval:
        if self.norm == "max":
            raise ValueError(
                f"{type(self).__name__}: the largest of several noisy gaps has no valid interval; use that of "
                "RMSCalibrationError(debiased=True)."
            )
        confidence, outcome = (row if row.ndim == 2 else row.reshape(0, 1) for row in rows)
        return calibration_interval(
            confidence,
            outcome,
            bins_of(confidence, self.num_bins, self.binning),
            self.num_bins,
            self._of_bins,
            self._population,
            exclusive=self.task == "multiclass" and self.scope == "classwise",
            level=level,
            resamples=resamples,
            seed=seed,
        )


def refuse_fixed(metric: str, options: Mapping[str, object], *fixed: str) -> None:
    """Raise ``ValueError`` for an option of `CalibrationError` that a named metric fixes."""
    if given := next((name for name in fixed if name in options), None):
        raise ValueError(
            f"{metric}: {given}={options[given]!r} came, but this metric fixes it; use CalibrationError, where every "
            "option is free."
        )


def _error(
    bins: Binned, norm: float | Literal["max"], weighting: Weighting, debiased: bool
) -> Float[Tensor, "*resamples"]:
    gap = (bins.outcome - bins.confidence).abs()
    if norm == "max":
        filled = bins.samples > 0
        largest = gap.masked_fill(~filled, 0.0).amax(dim=(-2, -1))
        return torch.where(filled.any(dim=-1).any(dim=-1), largest, torch.nan)
    power = gap if norm == 1 else gap**norm
    if debiased:
        noise = bins.outcome * (1 - bins.outcome) / (bins.samples - 1).clamp(min=1)
        power = torch.where((bins.samples >= 2) | gap.isnan(), power - noise, 0.0)
    weight = bins.samples if weighting == "count" else (bins.samples > 0).double()
    per_column = (weight * power).sum(dim=-2) / weight.sum(dim=-2)
    mean = per_column.clamp(min=0).mean(dim=-1)
    return mean if norm == 1 else mean ** (1 / norm)


def _check_options(
    metric: str,
    num_bins: int,
    norm: float | Literal["max"],
    binning: Binning,
    scope: Scope,
    weighting: Weighting,
    debiased: bool,
) -> None:
    check_bins(metric, num_bins)
    check_choice(metric, "binning", binning, Binning)
    check_choice(metric, "scope", scope, Scope)
    check_choice(metric, "weighting", weighting, Weighting)
    if norm != "max":
        check_number(metric, "norm", norm, least=1, most=1e3)
    if debiased and norm != 2:
        raise ValueError(f"{metric}: debiased=True came with norm={norm!r}; the correction is for norm=2.")
