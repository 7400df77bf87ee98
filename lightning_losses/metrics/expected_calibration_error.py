"""The expected calibration error (ECE)."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.bins import Binning, Scope
from lightning_losses.metrics.calibration_error import CalibrationError, calibration_error
from lightning_losses.metrics.predictions import Inputs, Task


def expected_calibration_error(
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
    """Expected calibration error; see `ExpectedCalibrationError`.

    Example:
        >>> import torch
        >>> probabilities = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
        >>> expected_calibration_error(probabilities, torch.tensor([0, 1]), inputs="probabilities").item()
        0.25
    """
    return calibration_error(
        predictions,
        target,
        inputs=inputs,
        task=task,
        num_bins=num_bins,
        binning=binning,
        scope=scope,
        ignore_index=ignore_index,
        validate=validate,
    )


class ExpectedCalibrationError(CalibrationError):
    """The expected calibration error: the mean gap between confidence and accuracy, weighted by the bins' counts.

    ``sum_b (n_b / N) |accuracy_b - confidence_b|``, which is `CalibrationError` with norm 1.

    Args:
        inputs: "logits" or "probabilities".
        task: "multiclass", "binary" or "multilabel".
        num_bins: at least 1.
        binning: "width" or "mass".
        scope: "top_label" or "classwise".
        **kwargs: as of `CalibrationError`.

    Source:
        Naeini, Cooper, Hauskrecht, 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; Guo et al.,
        2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599. It is biased upwards: a perfectly
        calibrated model has a value above 0, the more so the fewer samples a bin has; read it with `interval`, or
        take `RMSCalibrationError(debiased=True)`.

    Example:
        >>> import torch
        >>> metric = ExpectedCalibrationError(inputs="logits")
        >>> metric(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])).item()
        0.0
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
        super().__init__(inputs=inputs, task=task, num_bins=num_bins, norm=1, binning=binning, scope=scope, **kwargs)
