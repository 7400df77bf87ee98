"""Asymmetric loss: labels that a sample lacks are focused more than those that it has, and easy ones cost nothing."""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.confidence.focal import NEAREST
from lightning_losses.losses.kinds import MultiLabelLoss
from lightning_losses.numerics.rows import LabelRows
from lightning_losses.numerics.settings import Bound, NonNegative

Clip = Annotated[float, Bound(least=0, below=1)]


class Asymmetric(MultiLabelLoss):
    """Asymmetric loss: labels that a sample lacks are focused more than those that it has, and easy ones cost nothing.

    With p the sigmoid of a label's logit and ``q = min(1 - p + clip, 1)``, a label that the sample has costs
    ``-(1 - p)^γ₊ log p``, one that it lacks ``-(1 - q)^γ₋ log q``: exactly 0 where p is at most `clip`. For a label
    between 0 and 1, the logarithms, the exponents, and p and q are interpolated. With both exponents and `clip` at 0 it
    is binary cross-entropy.

    Args:
        gamma_pos: γ₊, at least 0.
        gamma_neg: γ₋, at least 0.
        clip: by how much the probability of a label that is lacking is lowered, in [0, 1).
        detach_focal: take the focusing weight as a constant, as the authors' training does; False differentiates
            through it, as timm does.

    Shapes:
        logits: [..., C]; multi_hot: [..., C].

    Returns:
        A scalar, or [...] without reduction. A mean is over samples, of the sums over labels.

    Raises:
        ValueError: shapes or dtypes that do not fit; labels or options out of range.

    Source:
        Ben-Baruch et al., 2020, "Asymmetric Loss For Multi-Label Classification", arXiv:2009.14119, and their code,
        Alibaba-MIIL/ASL, which sums over the batch (`reduction="sum"`); timm averages as this does. Both raise
        probabilities to at least 1e-8, below which there is no gradient; here logarithms are computed from logits,
        without a bound.

    Example:
        >>> loss = Asymmetric(gamma_pos=0.0, gamma_neg=0.0, clip=0.0)  # 2 log 2
        >>> round(loss(torch.zeros(1, 2), torch.tensor([[1, 0]])).item(), 4)
        1.3863
    """

    status = "confirmed"
    evidence = "Alibaba-MIIL/ASL"

    gamma_pos: NonNegative = 1.0
    gamma_neg: NonNegative = 4.0
    clip: Clip = 0.05
    detach_focal: bool = True

    def labels(self, given: LabelRows) -> Float[Tensor, "*rows classes"]:
        """The value of each label."""
        return asymmetric(
            F.logsigmoid(given.logits),
            clipped_log(given.logits, self.clip),
            given.multi_hot,
            gammas=(self.gamma_pos, self.gamma_neg),
            detach_focal=self.detach_focal,
        )


def clipped_log(logits: Float[Tensor, "*rows classes"], clip: float) -> Float[Tensor, "*rows classes"]:
    """``log min(1 - p + clip, 1)``, which does not underflow without a clip."""
    if clip == 0:
        return F.logsigmoid(-logits)
    return (torch.sigmoid(-logits) + clip).clamp(max=1).log()


def asymmetric(
    log_p: Float[Tensor, "*rows classes"],
    log_q: Float[Tensor, "*rows classes"],
    multi_hot: Float[Tensor, "*rows classes"],
    *,
    gammas: tuple[float, float | Float[Tensor, " classes"]],
    detach_focal: bool,
) -> Float[Tensor, "*rows classes"]:
    """Each label's value from the logarithms of having and of lacking it; see `Asymmetric`.

    Example:
        >>> half = torch.tensor([[0.5]]).log()
        >>> round(asymmetric(half, half, torch.ones(1, 1), gammas=(1.0, 4.0), detach_focal=True).item(), 4)
        0.3466
    """
    lacks = 1 - multi_hot
    # 1 - p and 1 - q, exact also near 0.
    distance = -(multi_hot * torch.expm1(log_p) + lacks * torch.expm1(log_q))
    focal = distance.clamp(min=NEAREST).pow(gammas[0] * multi_hot + gammas[1] * lacks)
    return -(multi_hot * log_p + lacks * log_q) * (focal.detach() if detach_focal else focal)
