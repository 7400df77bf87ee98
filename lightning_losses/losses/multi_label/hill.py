"""Hill loss: a label that a sample lacks may be missing if it is predicted as likely, so that it costs less."""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.confidence.focal import focal_weight
from lightning_losses.losses.kinds import MultiLabelLoss
from lightning_losses.numerics.rows import LabelRows
from lightning_losses.numerics.settings import Bound, NonNegative


class Hill(MultiLabelLoss):
    """Hill loss: a label that a sample lacks may be missing if it is predicted as likely, so that it costs less.

    A label that the sample lacks costs ``(λ - p) p²``, p the sigmoid of its logit: the slope by p is highest at λ/3 and
    0 at 2λ/3, which for λ = 1.5 is at p = 1. A label that it has costs ``-(1 - p_m)^γ log p_m`` with ``p_m`` the
    sigmoid of the logit less the margin. For a label between 0 and 1 both are interpolated.

    Args:
        lam: λ, at least 1.
        margin: m.
        gamma: γ, at least 0.

    Shapes:
        logits: [..., C]; multi_hot: [..., C].

    Returns:
        A scalar, or [...] without reduction. A mean is over samples, of the sums over labels.

    Raises:
        ValueError: shapes or dtypes that do not fit; labels or options out of range.

    Source:
        Zhang et al., 2021, "Simple and Robust Loss Design for Multi-Label Learning with Missing Labels",
        arXiv:2112.07368; values from the code in wannature/COMIC, which sums over the batch (`reduction="sum"`).

    Example:
        >>> round(Hill()(torch.zeros(1, 1), torch.tensor([[0]])).item(), 4)  # (1.5 - 0.5) 0.5²
        0.25
    """

    status = "confirmed"
    evidence = "wannature/COMIC"

    lam: Annotated[float, Bound(least=1)] = 1.5
    margin: float = 1.0
    gamma: NonNegative = 2.0

    def labels(self, given: LabelRows) -> Float[Tensor, "*rows classes"]:
        """The value of each label."""
        log_p = F.logsigmoid(given.logits - self.margin)
        p = torch.sigmoid(given.logits)
        has = -focal_weight(log_p, self.gamma) * log_p
        return given.multi_hot * has + (1 - given.multi_hot) * (self.lam - p) * p.square()
