"""Spherical Z-loss: a soft hinge on the target's logit, standardised within its row."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassificationLoss, ClassificationRows
from lightning_losses.numerics.rows import pick
from lightning_losses.numerics.settings import Positive


class SphericalZLoss(ClassificationLoss):
    """Spherical Z-loss: a soft hinge on the target's logit, standardised within its row.

    ``softplus(a (b - (z_y - μ) / σ)) / a`` with μ and σ the mean and the standard deviation of the row's logits. Adding
    a number to all logits, or multiplying them by one above 0, changes nothing. As it needs only the sum of the logits,
    the sum of their squares and z_y, `linear_spherical_z_loss` computes it for a head of V classes without the other
    logits. It is another loss than `ZLoss`.

    Args:
        a: hardness of the hinge, above 0.
        b: how many standard deviations above the mean the target should be; the most there can be is sqrt(C - 1).
        epsilon: above 0, is added to σ², so that a row of equal logits is finite.

    Shapes:
        logits: [..., C]; target: [...] class indices. A class that is masked by -inf is none of the row.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a or epsilon of 0 or less.

    Source:
        de Brébisson, Vincent, 2016, "The Z-loss: a Shift and Scale Invariant Classification Loss Belonging to the
        Spherical Family", arXiv:1604.08859, who tune a and b.

    Example:
        >>> loss = SphericalZLoss(a=1.0, b=0.0)
        >>> round(loss(torch.tensor([[1.0, -1.0]]), torch.tensor([0])).item(), 4)
        0.3133
    """

    status = "paper"
    evidence = "an independent evaluation of the formula"
    soft_targets = False

    a: Positive = 0.5
    b: float = 5.0
    epsilon: Positive = 1e-6

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        absent = torch.isneginf(given.logits)
        number = (~absent).sum(dim=-1, keepdim=True)
        mean = given.logits.masked_fill(absent, 0.0).sum(dim=-1, keepdim=True) / number
        centred = (given.logits - mean).masked_fill(absent, 0.0)
        variance = centred.square().sum(dim=-1) / number.squeeze(-1)
        return soft_hinge(pick(given.logits - mean, given.target), variance + self.epsilon, self.a, self.b)


def soft_hinge(
    distance: Float[Tensor, "*rows"], variance: Float[Tensor, "*rows"], a: float, b: float
) -> Float[Tensor, "*rows"]:
    """``softplus(a (b - distance / σ)) / a`` of a target's distance from the mean."""
    return F.softplus(a * (b - distance * variance.rsqrt())) / a
