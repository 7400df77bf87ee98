"""The classwise (static) calibration error."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.calibration_error import CalibrationError, calibration_error
from lightning_losses.metrics.predictions import Inputs, Task


def classwise_calibration_error(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    inputs: Inputs,
    task: Task = "multiclass",
    num_bins: int = 15,
    ignore_index: int = -100,
    validate: bool = True,
) -> Float[Tensor, ""]:
    """Classwise calibration error; see `ClasswiseCalibrationError`."""
    return calibration_error(
        predictions,
        target,
        inputs=inputs,
        task=task,
        num_bins=num_bins,
        scope="classwise",
        ignore_index=ignore_index,
        validate=validate,
    )


class ClasswiseCalibrationError(CalibrationError):
    """The classwise (static) calibration error: the ECE of each class's probability, averaged over the classes.

    ``(1 / C) sum_c sum_b (n_bc / N) |frequency_bc - confidence_bc|`` over equal-width bins of each class's
    probability; classes that never come count like any other.

    Args:
        num_classes: C, or the labels of multi-label.
        inputs: "logits" or "probabilities".
        task: "multiclass", "binary" or "multilabel".
        num_bins: at least 1.
        **kwargs: as of `CalibrationError`.

    Source:
        Nixon et al., 2019, "Measuring Calibration in Deep Learning", arXiv:1904.01685 (static calibration error); Kull
        et al., 2019, arXiv:1910.12656 (classwise ECE).

    Example:
        >>> import torch
        >>> metric = ClasswiseCalibrationError(2, inputs="probabilities")
        >>> metric(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1])).item()
        0.25
    """

    def __init__(
        self, num_classes: int, *, inputs: Inputs, task: Task = "multiclass", num_bins: int = 15, **kwargs: Any
    ) -> None:
        super().__init__(
            inputs=inputs, task=task, num_bins=num_bins, scope="classwise", num_classes=num_classes, **kwargs
        )
