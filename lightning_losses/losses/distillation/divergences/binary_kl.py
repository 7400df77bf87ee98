"""Binary divergence: each class is a yes-or-no question that student and teacher answer."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import at_least_zero, over_finite_logarithms
from lightning_losses.numerics.settings import Temperature


class BinaryKL(DistillationLoss):
    """Binary divergence: each class is a yes-or-no question that student and teacher answer.

    ``τ² sum_k KL(Bernoulli(sigmoid(teacher_logits_k / τ)) || Bernoulli(sigmoid(logits_k / τ)))``. Unlike divergences of
    softmax it depends on the shift of the logits, and it suits classes that do not exclude one another.

    Args:
        temperature: τ, above 0.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. A class that the student alone masks by -inf has a logit of -100 τ
        instead.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Yang, Zong, Huang, Feng, An, 2024, "Dual-Head Knowledge Distillation: Enhancing Logits Utilization with an
        Auxiliary Head", arXiv:2411.08937, and its code penghui-yang/DHKD, which clamps sigmoids to [1e-8, 1 - 1e-8];
        this form needs no clamp.

    Example:
        >>> round(BinaryKL(temperature=1.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])).item(), 4)
        0.4338
    """

    status = "confirmed"
    least_classes = 1
    evidence = "penghui-yang/DHKD"

    temperature: Temperature = 2.0

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        # Far below 0 a logit equals the logarithm of its probability.
        return self.temperature**2 * over_finite_logarithms(
            _divergence, given.logits / self.temperature, given.teacher_logits / self.temperature
        )


def _divergence(
    student: Float[Tensor, "*rows classes"], teacher: Float[Tensor, "*rows classes"]
) -> Float[Tensor, "*rows"]:
    # The answer that the teacher finds less likely: its probability keeps its digits.
    sign = torch.copysign(torch.ones_like(teacher), -teacher).detach()
    own = sign * teacher
    likely, difference = own.sigmoid(), sign * student - own
    # Near each other the difference stays exact, also in single precision: there the rest is 0. A choice takes longer.
    step = F.hardtanh(difference)
    near = torch.log1p(likely * torch.expm1(step)) - likely * step
    rest = F.softplus(own + difference) - F.softplus(own + step) - likely * (difference - step)
    return (at_least_zero(near) + rest).sum(dim=-1)
