"""The adaptive calibration error (ACE)."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.bins import Scope
from lightning_losses.metrics.calibration_error import CalibrationError, calibration_error
from lightning_losses.metrics.predictions import Inputs, Task


def adaptive_calibration_error(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    inputs: Inputs,
    task: Task = "multiclass",
    num_bins: int = 15,
    scope: Scope = "classwise",
    ignore_index: int = -100,
    validate: bool = True,
) -> Float[Tensor, ""]:
    """Adaptive calibration error; see `AdaptiveCalibrationError`."""
    return calibration_error(
        predictions,
        target,
        inputs=inputs,
        task=task,
        num_bins=num_bins,
        binning="mass",
        scope=scope,
        weighting="uniform",
        ignore_index=ignore_index,
        validate=validate,
    )


class AdaptiveCalibrationError(CalibrationError):
    """The adaptive calibration error: the mean gap over bins of equal mass, for each class.

    ``(1 / (C B)) sum_c sum_b |frequency_bc - confidence_bc|``. With ``scope="top_label"`` it is the equal-mass ECE of
    the predicted class, up to bins whose counts differ by 1.

    Args:
        inputs: "logits" or "probabilities".
        task: "multiclass", "binary" or "multilabel".
        num_bins: at least 1.
        scope: "classwise" or "top_label".
        **kwargs: as of `CalibrationError`.

    Source:
        Nixon et al., 2019, "Measuring Calibration in Deep Learning", arXiv:1904.01685. netcal's "ACE" is another
        thing, the unweighted mean over equal-width bins: ``CalibrationError(weighting="uniform")``.

    Example:
        >>> import torch
        >>> metric = AdaptiveCalibrationError(inputs="probabilities", num_bins=1)
        >>> metric(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1])).item()
        0.25
    """

    def __init__(
        self,
        *,
        inputs: Inputs,
        task: Task = "multiclass",
        num_bins: int = 15,
        scope: Scope = "classwise",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            inputs=inputs, task=task, num_bins=num_bins, binning="mass", scope=scope, weighting="uniform", **kwargs
        )
