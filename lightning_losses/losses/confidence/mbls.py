"""Margin-based label smoothing: cross-entropy that keeps the logits within a margin of their largest."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import NonNegative, Weight


class MbLS(ClassificationLoss):
    """Margin-based label smoothing: cross-entropy that keeps the logits within a margin of their largest.

    ``CE + α (1 / C) sum_c max(0, max_k logits_k - logits_c - m)``. Label smoothing pulls all logits towards each other;
    this pulls only those beyond the margin m.

    Args:
        margin: m, at least 0; at 0 it penalises every difference, at infinity it is cross-entropy.
        alpha: α, at least 0.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a negative margin or alpha.

    Source:
        Liu et al., 2022, "The Devil is in the Margin: Margin-based Label Smoothing for Network Calibration",
        arXiv:2111.15430; α = 0.1 and m = 6 or 10, as in their code.

    Example:
        >>> round(MbLS(margin=1.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.1769
    """

    status = "confirmed"
    evidence = "by-liu/MbLS"
    soft_targets = False

    margin: NonNegative = 6.0
    alpha: Weight = 0.1

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        largest = given.logits.max(dim=-1, keepdim=True).values
        # A masked class is meant to be infinitely far away: no penalty.
        distance = (largest - given.logits).masked_fill(given.logits == -torch.inf, 0.0)
        penalty = torch.relu(distance - self.margin).mean(dim=-1)
        return self.alpha * penalty - pick(log_probabilities(given.logits), given.target)
