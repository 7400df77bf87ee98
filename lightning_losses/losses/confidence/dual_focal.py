"""Dual focal loss: focal loss that also depends on the strongest class below the target."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.confidence.focal import NEAREST
from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import NonNegative


class DualFocal(ClassificationLoss):
    """Dual focal loss: focal loss that also depends on the strongest class below the target.

    ``-(1 - p + q)^γ log p`` with p the probability of the target and q the largest probability strictly below it
    (0 if there is none). Pushing p and q apart balances the over- and underconfidence of focal loss.

    Args:
        gamma: γ, at least 0; 0 is cross-entropy.

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
    soft_targets = False

    gamma: NonNegative = 5.0

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        every = log_probabilities(given.logits)
        log_p = pick(every, given.target)
        rival = every.masked_fill(every >= log_p.unsqueeze(-1), -torch.inf).max(dim=-1).values
        weight = torch.pow((rival.exp() - torch.expm1(log_p)).clamp(min=NEAREST), self.gamma)
        return -weight * log_p
