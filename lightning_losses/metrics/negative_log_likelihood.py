"""The negative log-likelihood (NLL) of the targets."""

from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.metrics.base import MeanMetric
from lightning_losses.metrics.predictions import Options, Predictions, checked_predictions, shows_options
from lightning_losses.numerics.probabilities import full_precision

# A smaller probability of the true class counts as this.
SMALLEST_PROBABILITY = 1e-12


@shows_options(checked_predictions)
def negative_log_likelihood(
    predictions: Float[Tensor, "..."], target: Int[Tensor, "..."], **options: Unpack[Options]
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood; see `NegativeLogLikelihood`.

    Example:
        >>> round(negative_log_likelihood(torch.zeros(2, 4), torch.tensor([0, 3]), inputs="logits").item(), 4)
        1.3863
    """
    return _per_sample(checked_predictions("negative_log_likelihood", predictions, target, **options)).double().mean()


class NegativeLogLikelihood(MeanMetric):
    """The mean negative log-likelihood of the targets, in nats.

    ``-(1 / N) sum_n log p_n(target_n)``; for multi-label, summed over the labels. For logits it is exact for any
    probability; given probabilities count as at least 1e-12.

    Args:
        **options: `inputs`, `task` and more: see `MetricOptions`.

    Shapes:
        predictions: [N, C], [N] for binary or [N, L] for multi-label; target: [N] or [N, L].

    Returns:
        A float64 scalar; NaN without samples.

    Raises:
        ValueError: shapes that do not fit; NaN, targets or probabilities out of range.

    Source:
        Good, 1952, "Rational Decisions" (the logarithmic score).

    Example:
        >>> round(NegativeLogLikelihood(inputs="logits")(torch.zeros(2, 4), torch.tensor([0, 3])).item(), 4)
        1.3863
    """

    def _rows(self, given: Predictions) -> tuple[Tensor, ...]:
        return (_per_sample(given),)


def _per_sample(given: Predictions) -> Float[Tensor, " rows"]:
    # Half precision can't represent 1e-12.
    predictions, target = full_precision(given.values), given.target
    if given.task == "multiclass":
        if given.inputs == "logits":
            return F.cross_entropy(predictions, target, reduction="none")
        chosen = predictions.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        return -chosen.clamp(min=SMALLEST_PROBABILITY).log()
    if given.inputs == "logits":
        # Not torch's binary cross-entropy, which is NaN at infinite logits.
        value = F.softplus(torch.where(target == 1, -predictions, predictions))
    else:
        value = -torch.where(target == 1, predictions, 1 - predictions).clamp(min=SMALLEST_PROBABILITY).log()
    return value.sum(dim=-1) if given.task == "multilabel" else value
