"""Focal loss: samples that are already right count less."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.losses.confidence.confidence import indexed_rows
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.reduction import Reduction, check_reduction
from lightning_losses.numerics.rows import pick

# Below this distance of p from 1 the weight is constant: for γ < 1 its slope would be infinite.
NEAREST = 1e-12


def focal_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    gamma: float = 3.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Focal loss; see `Focal`."""
    check_reduction("focal", reduction)
    check_number("focal", "gamma", gamma, least=0)
    rows = indexed_rows("focal", logits, target, ignore_index)
    log_p = pick(rows.log_p, rows.target)
    return rows.reduced(-focal_weight(log_p, gamma) * log_p, reduction)


def focal_weight(log_p: Float[Tensor, " rows"], gamma: float | Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """``(1 - p)^γ`` from log p, exact also where p is near 1."""
    return torch.pow((-torch.expm1(log_p)).clamp(min=NEAREST), gamma)


class Focal(Loss):
    """Focal loss: samples that are already right count less.

    ``-(1 - p)^γ log p`` with p the probability of the target. Minimising it raises the entropy of the predictions
    too, which keeps a network from growing overconfident.

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
        Lin et al., 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002; for calibration: Mukhoti et al.,
        2020, "Calibrating Deep Neural Networks using Focal Loss", arXiv:2002.09437. Their code sums over the batch by
        default; this averages.

    Example:
        >>> round(Focal(gamma=2.0)(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.1733
    """

    status = "confirmed"
    evidence = "torrvision/focal_calibration"

    def __init__(self, gamma: float = 3.0, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction("focal", reduction)
        check_number("focal", "gamma", gamma, least=0)
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return focal_loss(logits, target, gamma=self.gamma, ignore_index=self.ignore_index, reduction=self.reduction)
