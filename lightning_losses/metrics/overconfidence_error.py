"""The overconfidence error, and underconfidence's."""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.bins import bin_sums, binned, check_bins, confidences
from lightning_losses.metrics.calibration_error import CalibrationError
from lightning_losses.metrics.predictions import Inputs, Task, checked_predictions
from lightning_losses.numerics.bins import width_bins
from lightning_losses.numerics.checks import check_choice

Direction = Literal["over", "under"]


def overconfidence_error(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    inputs: Inputs,
    task: Task = "multiclass",
    direction: Direction = "over",
    num_bins: int = 15,
    ignore_index: int = -100,
    validate: bool = True,
) -> Float[Tensor, ""]:
    """Over- or underconfidence error; see `OverconfidenceError`."""
    check_bins("overconfidence_error", num_bins)
    check_choice("overconfidence_error", "task", task, OverconfidenceError.tasks)
    check_choice("overconfidence_error", "direction", direction, Direction)
    predictions, target = checked_predictions(
        "overconfidence_error",
        predictions,
        target,
        inputs=inputs,
        task=task,
        ignore_index=ignore_index,
        validate=validate,
    )
    confidence, outcome = confidences(predictions, target, inputs=inputs, task=task, scope="top_label")
    return _error(bin_sums(confidence, outcome, width_bins(confidence, num_bins), num_bins), direction)


class OverconfidenceError(CalibrationError):
    """The overconfidence error: the part of the ECE where confidence is above accuracy, weighted by confidence.

    ``sum_b (n_b / N) confidence_b max(confidence_b - accuracy_b, 0)`` over equal-width bins; for
    ``direction="under"``, ``max(accuracy_b - confidence_b, 0)``.

    Args:
        inputs: "logits" or "probabilities".
        task: "multiclass" or "binary".
        direction: "over" or "under".
        num_bins: at least 1.
        **kwargs: as of `CalibrationError`.

    Source:
        Thulasidasan et al., 2019, "On Mixup Training: Improved Calibration and Predictive Uncertainty for Deep Neural
        Networks", arXiv:1905.11001; the underconfidence error as in the code of MbLS (Liu et al., 2022).

    Example:
        >>> metric = OverconfidenceError(inputs="probabilities")
        >>> metric(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1])).item()
        0.1875
    """

    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "binary")

    def __init__(
        self,
        *,
        inputs: Inputs,
        task: Task = "multiclass",
        direction: Direction = "over",
        num_bins: int = 15,
        **kwargs: Any,
    ) -> None:
        check_choice(type(self).__name__, "direction", direction, Direction)
        super().__init__(inputs=inputs, task=task, num_bins=num_bins, **kwargs)
        self.direction: Direction = direction

    def _value(self, sums: Tensor) -> Tensor:
        return _error(sums, self.direction)

    _population = _value


def _error(sums: Float[Tensor, "*resamples three bins one"], direction: Direction) -> Float[Tensor, "*resamples"]:
    bins = binned(sums)
    gap = bins.confidence - bins.outcome if direction == "over" else bins.outcome - bins.confidence
    return (bins.samples * bins.confidence * torch.relu(gap)).sum(dim=(-2, -1)) / bins.samples.sum(dim=(-2, -1))
