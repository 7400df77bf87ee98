"""Dual focal loss: focal loss that also looks at the strongest rival below the target."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.confidence import indexed_rows
from lightning_losses.losses.confidence.focal import NEAREST
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.reduction import Reduction, check_reduction
from lightning_losses.numerics.rows import pick


def dual_focal_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    gamma: float = 5.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Dual focal loss; see `DualFocal`."""
    check_reduction("dual_focal", reduction)
    check_number("dual_focal", "gamma", gamma, least=0)
    rows = indexed_rows("dual_focal", logits, target, ignore_index)
    log_p = pick(rows.log_p, rows.target)
    rival = rows.log_p.masked_fill(rows.log_p >= log_p.unsqueeze(-1), -torch.inf).max(dim=-1).values
    weight = torch.pow((rival.exp() - torch.expm1(log_p)).clamp(min=NEAREST), gamma)
    return rows.reduced(-weight * log_p, reduction)


class DualFocal(Loss):
    """Dual focal loss: focal loss that also looks at the strongest rival below the target.

    ``-(1 - p + q)^γ log p`` with p the probability of the target and q the largest probability strictly below it
    (0 if there is none). Pushing p and q apart balances the over- and underconfidence of focal loss.

    Args:
        gamma: γ, at least 0; 0 is cross-entropy.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; gamma below 0.

    Source:
        Tao, Dong, Xu, 2023, "Dual Focal Loss for Calibration", arXiv:2305.13665. Their code sums over the batch by
        default; this averages.

    Example:
        >>> round(DualFocal(gamma=1.0)(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.1685
    """

    status = "confirmed"
    evidence = "Linwei94/DualFocalLoss"

    def __init__(self, gamma: float = 5.0, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction("dual_focal", reduction)
        check_number("dual_focal", "gamma", gamma, least=0)
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return dual_focal_loss(
            logits, target, gamma=self.gamma, ignore_index=self.ignore_index, reduction=self.reduction
        )
