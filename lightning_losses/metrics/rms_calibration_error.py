"""The root-mean-square calibration error, plain and debiased."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.bins import Binning, Scope
from lightning_losses.metrics.calibration_error import CalibrationError, calibration_error
from lightning_losses.metrics.predictions import Inputs, Task


def rms_calibration_error(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    inputs: Inputs,
    task: Task = "multiclass",
    num_bins: int = 15,
    binning: Binning = "mass",
    scope: Scope = "top_label",
    debiased: bool = False,
    ignore_index: int = -100,
    validate: bool = True,
) -> Float[Tensor, ""]:
    """Root-mean-square calibration error; see `RMSCalibrationError`."""
    return calibration_error(
        predictions,
        target,
        inputs=inputs,
        task=task,
        num_bins=num_bins,
        norm=2,
        binning=binning,
        scope=scope,
        debiased=debiased,
        ignore_index=ignore_index,
        validate=validate,
    )


class RMSCalibrationError(CalibrationError):
    """The root-mean-square calibration error, by default over bins of equal mass.

    ``sqrt(sum_b (n_b / N) (accuracy_b - confidence_b)²)``, which is `CalibrationError` with norm 2. Debiased, each
    bin's squared gap loses its expected noise ``accuracy (1 - accuracy) / (n_b - 1)``: a calibrated model then has a
    value about 0.

    Args:
        inputs: "logits" or "probabilities".
        task: "multiclass", "binary" or "multilabel".
        num_bins: at least 1.
        binning: "width" or "mass".
        scope: "top_label", or "classwise" (the marginal calibration error).
        debiased: take the noise off.
        **kwargs: as of `CalibrationError`.

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
        inputs: Inputs,
        task: Task = "multiclass",
        num_bins: int = 15,
        binning: Binning = "mass",
        scope: Scope = "top_label",
        debiased: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            inputs=inputs,
            task=task,
            num_bins=num_bins,
            norm=2,
            binning=binning,
            scope=scope,
            debiased=debiased,
            **kwargs,
        )
