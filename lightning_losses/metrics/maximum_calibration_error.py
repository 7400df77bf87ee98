"""The maximum calibration error (MCE)."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.bins import Binning, Scope
from lightning_losses.metrics.calibration_error import CalibrationError, calibration_error
from lightning_losses.metrics.predictions import Inputs, Task


def maximum_calibration_error(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    inputs: Inputs,
    task: Task = "multiclass",
    num_bins: int = 15,
    binning: Binning = "width",
    scope: Scope = "top_label",
    ignore_index: int = -100,
    validate: bool = True,
) -> Float[Tensor, ""]:
    """Maximum calibration error; see `MaximumCalibrationError`."""
    return calibration_error(
        predictions,
        target,
        inputs=inputs,
        task=task,
        num_bins=num_bins,
        norm="max",
        binning=binning,
        scope=scope,
        ignore_index=ignore_index,
        validate=validate,
    )


class MaximumCalibrationError(CalibrationError):
    """The maximum calibration error: the largest gap between confidence and accuracy of any non-empty bin.

    ``max_b |accuracy_b - confidence_b|``, which is `CalibrationError` with norm "max". A bin of a few samples can
    decide it: prefer equal-mass bins.

    Args:
        inputs: "logits" or "probabilities".
        task: "multiclass", "binary" or "multilabel".
        num_bins: at least 1.
        binning: "width" or "mass".
        scope: "top_label" or "classwise".
        **kwargs: as of `CalibrationError`.

    Source:
        Naeini, Cooper, Hauskrecht, 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning".

    Example:
        >>> import torch
        >>> metric = MaximumCalibrationError(inputs="probabilities")
        >>> round(metric(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 0])).item(), 4)
        0.5
    """

    def __init__(
        self,
        *,
        inputs: Inputs,
        task: Task = "multiclass",
        num_bins: int = 15,
        binning: Binning = "width",
        scope: Scope = "top_label",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            inputs=inputs, task=task, num_bins=num_bins, norm="max", binning=binning, scope=scope, **kwargs
        )
