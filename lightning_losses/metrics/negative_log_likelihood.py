"""The negative log-likelihood (NLL) of the targets."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.base import PredictionMetric
from lightning_losses.metrics.predictions import Inputs, Task, checked_predictions
from lightning_losses.numerics.probabilities import full_precision

# What a probability of 0 given to what came true counts as.
SMALLEST_PROBABILITY = 1e-12


def negative_log_likelihood(
    predictions: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    inputs: Inputs,
    task: Task = "multiclass",
    ignore_index: int = -100,
    validate: bool = True,
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood; see `NegativeLogLikelihood`.

    Example:
        >>> round(negative_log_likelihood(torch.zeros(2, 4), torch.tensor([0, 3]), inputs="logits").item(), 4)
        1.3863
    """
    predictions, target = checked_predictions(
        "negative_log_likelihood",
        predictions,
        target,
        inputs=inputs,
        task=task,
        ignore_index=ignore_index,
        validate=validate,
    )
    return _per_sample(predictions, target, inputs, task).double().mean()


class NegativeLogLikelihood(PredictionMetric):
    """The mean negative log-likelihood of the targets, in nats.

    ``-(1 / N) sum_n log p_n(target_n)``; for multi-label, summed over the labels. Of logits it is exact however small
    the probability; a given probability counts as at least 1e-12.

    Args:
        inputs: "logits" or "probabilities".
        task: "multiclass", "binary" or "multilabel".
        ignore_index: rows with this target are left out.
        keep_rows: keep each sample's value, for `interval`.
        **kwargs: as of `torchmetrics.Metric`.

    Shapes:
        predictions: [N, C], [N] for binary or [N, L] for multi-label; target: [N] or [N, L].

    Returns:
        A float64 scalar; NaN of no samples.

    Raises:
        ValueError: shapes that do not fit; NaN, targets or probabilities out of range.

    Source:
        Good, 1952, "Rational Decisions" (the logarithmic score).

    Example:
        >>> round(NegativeLogLikelihood(inputs="logits")(torch.zeros(2, 4), torch.tensor([0, 3])).item(), 4)
        1.3863
    """

    row_names: ClassVar[tuple[str, ...]] = ("values",)

    def __init__(
        self,
        *,
        inputs: Inputs,
        task: Task = "multiclass",
        ignore_index: int = -100,
        keep_rows: bool = False,
        validate: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            inputs=inputs,
            task=task,
            ignore_index=ignore_index,
            keep_rows=keep_rows,
            validate=validate,
            streaming_shape=(2,),
            **kwargs,
        )

    def _rows(self, predictions: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        return (_per_sample(predictions, target, self.inputs, self.task),)

    def _sums(self, *rows: Tensor) -> Tensor:
        values = rows[0].double()
        return torch.stack([values.sum(), values.new_tensor(len(values))])

    def _value(self, sums: Tensor) -> Tensor:
        return sums[0] / sums[1]


def _per_sample(predictions: Tensor, target: Tensor, inputs: Inputs, task: Task) -> Float[Tensor, " rows"]:
    # Half precision has no 1e-12.
    predictions = full_precision(predictions)
    if task == "multiclass":
        if inputs == "logits":
            return F.cross_entropy(predictions, target, reduction="none")
        chosen = predictions.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        return -chosen.clamp(min=SMALLEST_PROBABILITY).log()
    if inputs == "logits":
        # Not by torch's binary cross-entropy, which is NaN at infinite logits.
        value = F.softplus(torch.where(target == 1, -predictions, predictions))
    else:
        value = -torch.where(target == 1, predictions, 1 - predictions).clamp(min=SMALLEST_PROBABILITY).log()
    return value.sum(dim=-1) if task == "multilabel" else value
