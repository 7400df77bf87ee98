"""Margin-based label smoothing: cross-entropy that keeps the logits within a margin of their largest."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.confidence import indexed_rows
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.reduction import Reduction, check_reduction
from lightning_losses.numerics.rows import pick


def mbls_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    margin: float = 6.0,
    alpha: float = 0.1,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Margin-based label smoothing; see `MbLS`."""
    check_reduction("mbls", reduction)
    check_number("mbls", "margin", margin, least=0)
    check_number("mbls", "alpha", alpha, least=0)
    rows = indexed_rows("mbls", logits, target, ignore_index)
    largest = rows.logits.max(dim=-1, keepdim=True).values
    # A masked class is infinitely far away, which is where it belongs.
    distance = (largest - rows.logits).masked_fill(rows.logits == -torch.inf, 0.0)
    penalty = torch.relu(distance - margin).mean(dim=-1)
    return rows.reduced(alpha * penalty - pick(rows.log_p, rows.target), reduction)


class MbLS(Loss):
    """Margin-based label smoothing: cross-entropy that keeps the logits within a margin of their largest.

    ``CE + α (1 / C) sum_c max(0, max_k logits_k - logits_c - m)``. Label smoothing pulls all logits towards each
    other, this only those beyond the margin m.

    Args:
        margin: m, at least 0; at 0 it penalises every difference, at infinity it is cross-entropy.
        alpha: α, at least 0.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a negative margin or alpha.

    Source:
        Liu et al., 2022, "The Devil is in the Margin: Margin-based Label Smoothing for Network Calibration",
        arXiv:2111.15430; α = 0.1, and m = 6 or 10, as their code.

    Example:
        >>> round(MbLS(margin=1.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.1769
    """

    status = "confirmed"
    evidence = "by-liu/MbLS"

    def __init__(
        self, margin: float = 6.0, alpha: float = 0.1, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        check_reduction("mbls", reduction)
        check_number("mbls", "margin", margin, least=0)
        check_number("mbls", "alpha", alpha, least=0)
        self.margin = margin
        self.alpha = alpha
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return mbls_loss(
            logits,
            target,
            margin=self.margin,
            alpha=self.alpha,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
