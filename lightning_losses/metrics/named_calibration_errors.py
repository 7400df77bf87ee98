"""The calibration errors with names of their own: settings of `CalibrationError`, as functions and as metrics."""

from typing import Unpack

from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.bins import Binning, Scope
from lightning_losses.metrics.calibration_error import CalibrationError, calibration_error, refuse_fixed
from lightning_losses.metrics.predictions import MetricOptions, Options, shows_options


class BinOptions(Options, total=False):
    """The options of a binned error as a function: see `CalibrationError`."""

    num_bins: int
    binning: Binning
    scope: Scope


class BinMetricOptions(MetricOptions, total=False):
    """The options of a binned error as a metric: see `CalibrationError`."""

    num_bins: int
    binning: Binning
    scope: Scope
    num_classes: int | None


@shows_options(calibration_error)
def expected_calibration_error(
    predictions: Float[Tensor, "..."], target: Int[Tensor, "..."], **options: Unpack[BinOptions]
) -> Float[Tensor, ""]:
    """Expected calibration error; see `ExpectedCalibrationError`.

    Example:
        >>> import torch
        >>> probabilities = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
        >>> expected_calibration_error(probabilities, torch.tensor([0, 1]), inputs="probabilities").item()
        0.25
    """
    refuse_fixed("expected_calibration_error", options, "norm", "weighting", "debiased")
    return calibration_error(predictions, target, **options)


class ExpectedCalibrationError(CalibrationError):
    """The expected calibration error: the mean gap between confidence and accuracy, weighted by the bins' counts.

    ``sum_b (n_b / N) |accuracy_b - confidence_b|``, which is `CalibrationError` with norm 1.

    Args:
        **options: `num_bins`, `binning`, `scope` and others, as in `CalibrationError`.

    Source:
        Naeini, Cooper, Hauskrecht, 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; Guo et al.,
        2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599. It is biased upwards: even a perfectly
        calibrated model has a value above 0, more so with few samples per bin. Read it with `interval`, or use
        `RMSCalibrationError(debiased=True)`.

    Example:
        >>> import torch
        >>> metric = ExpectedCalibrationError(inputs="logits")
        >>> metric(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])).item()
        0.0
    """

    def __init__(self, **options: Unpack[BinMetricOptions]) -> None:
        refuse_fixed(type(self).__name__, options, "norm", "weighting", "debiased")
        super().__init__(**options)


@shows_options(calibration_error)
def maximum_calibration_error(
    predictions: Float[Tensor, "..."], target: Int[Tensor, "..."], **options: Unpack[BinOptions]
) -> Float[Tensor, ""]:
    """Maximum calibration error; see `MaximumCalibrationError`."""
    refuse_fixed("maximum_calibration_error", options, "norm", "weighting", "debiased")
    return calibration_error(predictions, target, norm="max", **options)


class MaximumCalibrationError(CalibrationError):
    """The maximum calibration error: the largest gap between confidence and accuracy of any non-empty bin.

    ``max_b |accuracy_b - confidence_b|``, which is `CalibrationError` with norm "max". A bin with a few samples can
    determine it: prefer equal-mass bins.

    Args:
        **options: `num_bins`, `binning`, `scope` and others, as in `CalibrationError`.

    Source:
        Naeini, Cooper, Hauskrecht, 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning".

    Example:
        >>> import torch
        >>> metric = MaximumCalibrationError(inputs="probabilities")
        >>> round(metric(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 0])).item(), 4)
        0.5
    """

    def __init__(self, **options: Unpack[BinMetricOptions]) -> None:
        refuse_fixed(type(self).__name__, options, "norm", "weighting", "debiased")
        super().__init__(norm="max", **options)


@shows_options(calibration_error)
def rms_calibration_error(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    num_bins: int = 15,
    binning: Binning = "mass",
    scope: Scope = "top_label",
    debiased: bool = False,
    **options: Unpack[Options],
) -> Float[Tensor, ""]:
    """Root-mean-square calibration error; see `RMSCalibrationError`."""
    refuse_fixed("rms_calibration_error", options, "norm", "weighting")
    return calibration_error(
        predictions, target, num_bins=num_bins, norm=2, binning=binning, scope=scope, debiased=debiased, **options
    )


class RMSCalibrationError(CalibrationError):
    """The root-mean-square calibration error, by default over bins of equal mass.

    ``sqrt(sum_b (n_b / N) (accuracy_b - confidence_b)²)``, which is `CalibrationError` with norm 2. With `debiased`,
    the expected noise ``accuracy (1 - accuracy) / (n_b - 1)`` is subtracted from each bin's squared gap, so that a
    calibrated model has a value near 0.

    Args:
        num_bins: at least 1.
        binning: "width" or "mass".
        scope: "top_label", or "classwise" (the marginal calibration error).
        debiased: subtract the noise.
        **options: as in `CalibrationError`.

    Source:
        Kumar, Liang, Ma, 2019, "Verified Uncertainty Calibration", arXiv:1909.10155; Hendrycks, Mazeika, Dietterich,
        2019, "Deep Anomaly Detection with Outlier Exposure", arXiv:1812.04606 (the RMS error of equal-mass bins).

    Example:
        >>> import torch
        >>> metric = RMSCalibrationError(inputs="probabilities", num_bins=1)
        >>> metric(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1])).item()
        0.25
    """

    def __init__(
        self,
        *,
        num_bins: int = 15,
        binning: Binning = "mass",
        scope: Scope = "top_label",
        debiased: bool = False,
        num_classes: int | None = None,
        **options: Unpack[MetricOptions],
    ) -> None:
        refuse_fixed(type(self).__name__, options, "norm", "weighting")
        super().__init__(
            num_bins=num_bins,
            norm=2,
            binning=binning,
            scope=scope,
            debiased=debiased,
            num_classes=num_classes,
            **options,
        )


@shows_options(calibration_error)
def adaptive_calibration_error(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    num_bins: int = 15,
    scope: Scope = "classwise",
    **options: Unpack[Options],
) -> Float[Tensor, ""]:
    """Adaptive calibration error; see `AdaptiveCalibrationError`."""
    refuse_fixed("adaptive_calibration_error", options, "norm", "weighting", "debiased", "binning")
    return calibration_error(
        predictions, target, num_bins=num_bins, binning="mass", scope=scope, weighting="uniform", **options
    )


class AdaptiveCalibrationError(CalibrationError):
    """The adaptive calibration error: the mean gap over bins of equal mass, for each class.

    ``(1 / (C B)) sum_c sum_b |frequency_bc - confidence_bc|``. With ``scope="top_label"`` it is the equal-mass ECE of
    the predicted class, except that bins' counts may differ by 1.

    Args:
        num_bins: at least 1.
        scope: "classwise" or "top_label".
        **options: as in `CalibrationError`.

    Source:
        Nixon et al., 2019, "Measuring Calibration in Deep Learning", arXiv:1904.01685. netcal's "ACE" is different, the
        unweighted mean over equal-width bins: ``CalibrationError(weighting="uniform")``.

    Example:
        >>> import torch
        >>> metric = AdaptiveCalibrationError(inputs="probabilities", num_bins=1)
        >>> metric(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1])).item()
        0.25
    """

    def __init__(self, *, num_bins: int = 15, scope: Scope = "classwise", **options: Unpack[MetricOptions]) -> None:
        refuse_fixed(type(self).__name__, options, "norm", "weighting", "debiased", "binning")
        super().__init__(num_bins=num_bins, binning="mass", scope=scope, weighting="uniform", **options)


@shows_options(calibration_error)
def classwise_calibration_error(
    predictions: Float[Tensor, "..."], target: Int[Tensor, "..."], *, num_bins: int = 15, **options: Unpack[Options]
) -> Float[Tensor, ""]:
    """Classwise calibration error; see `ClasswiseCalibrationError`."""
    refuse_fixed("classwise_calibration_error", options, "norm", "weighting", "debiased", "binning", "scope")
    return calibration_error(predictions, target, num_bins=num_bins, scope="classwise", **options)


class ClasswiseCalibrationError(CalibrationError):
    """The classwise (static) calibration error: the ECE of each class's probability, averaged over the classes.

    ``(1 / C) sum_c sum_b (n_bc / N) |frequency_bc - confidence_bc|`` over equal-width bins of each class's
    probability; classes that never occur count like any other.

    Args:
        num_classes: C, or the labels of multi-label.
        num_bins: at least 1.
        **options: as in `CalibrationError`.

    Source:
        Nixon et al., 2019, "Measuring Calibration in Deep Learning", arXiv:1904.01685 (static calibration error); Kull
        et al., 2019, arXiv:1910.12656 (classwise ECE).

    Example:
        >>> import torch
        >>> metric = ClasswiseCalibrationError(2, inputs="probabilities")
        >>> metric(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1])).item()
        0.25
    """

    def __init__(self, num_classes: int, *, num_bins: int = 15, **options: Unpack[MetricOptions]) -> None:
        refuse_fixed(type(self).__name__, options, "norm", "weighting", "debiased", "binning", "scope")
        super().__init__(num_bins=num_bins, scope="classwise", num_classes=num_classes, **options)
