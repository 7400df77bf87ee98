"""How many of two kinds of samples lie at or above each threshold: the ground of ROC and precision-recall curves."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def counts_above(
    scores: Float[Tensor, " samples"], positive: Bool[Tensor, " samples"]
) -> tuple[Float[Tensor, " thresholds"], Float[Tensor, " thresholds"]]:
    """How many negatives and how many positives score at least each threshold, in float64.

    The thresholds are one above all scores, then every score that occurs, from the highest down; equal scores pass
    together.

    Args:
        scores: [N] not NaN.
        positive: [N] which samples are positives.

    Returns:
        [T] each, from 0 up to all.

    Example:
        >>> counts_above(torch.tensor([2.0, 1.0, 1.0]), torch.tensor([True, True, False]))
        (tensor([0., 0., 1.], dtype=torch.float64), tensor([0., 1., 2.], dtype=torch.float64))
    """
    values, place = torch.unique(scores, return_inverse=True)
    counts = torch.zeros(2, len(values) + 1, dtype=torch.float64, device=scores.device)
    counts[:, :-1].index_put_((positive.long(), place), counts.new_ones(()), accumulate=True)
    negatives, positives = counts.flip(1).cumsum(1)
    return negatives, positives
