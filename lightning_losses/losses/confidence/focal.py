"""Focal loss: samples that are already well classified count less."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import CrossEntropyFunction
from lightning_losses.numerics.settings import NonNegative

# If p is nearer to 1 than this, the weight is constant: for γ < 1 its slope would be infinite.
NEAREST = 1e-12


class Focal(CrossEntropyFunction):
    """Focal loss: samples that are already well classified count less.

    ``-(1 - p)^γ log p`` with p the probability of the target. It also raises the entropy of the predictions, which
    keeps a network from becoming overconfident.

    Args:
        gamma: γ, at least 0; 0 is cross-entropy.

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

    gamma: NonNegative = 3.0

    def of_cross_entropy(self, cross_entropy: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return focal_weight(-cross_entropy, self.gamma) * cross_entropy


def focal_weight(log_p: Float[Tensor, "*rows"], gamma: float | Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """``(1 - p)^γ`` from log p, also exact for p near 1."""
    return torch.pow((-torch.expm1(flat_at_zero(log_p))).clamp(min=NEAREST), gamma)


def flat_at_zero(log_p: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """Log p, without gradient where p is 0: an infinite factor times a slope of 0 would be NaN."""
    return log_p.masked_fill(torch.isneginf(log_p), -torch.inf)
