"""Binary divergence: each class is a yes-or-no question that student and teacher answer."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.losses.settings import Temperature
from lightning_losses.numerics.probabilities import known_finite


class BinaryKL(DistillationLoss):
    """Binary divergence: each class is a yes-or-no question that student and teacher answer.

    ``τ² sum_k KL(Bernoulli(sigmoid(teacher_logits_k / τ)) || Bernoulli(sigmoid(logits_k / τ)))``. Unlike divergences of
    softmax it sees the logits' shift, and fits classes that do not exclude one another.

    Args:
        temperature: τ, above 0.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

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
    evidence = "penghui-yang/DHKD"

    temperature: Temperature = 2.0

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        student, teacher = given.logits, given.teacher_logits
        if student.device.type == "cpu":
            value = self._divergence(student, teacher)
            if known_finite(value):
                return value
        both = torch.isfinite(student) & torch.isfinite(teacher)
        return self._divergence(student.masked_fill(~both, 0.0), teacher.masked_fill(~both, 0.0))

    def _divergence(
        self, logits: Float[Tensor, "*rows classes"], teacher_logits: Float[Tensor, "*rows classes"]
    ) -> Float[Tensor, "*rows"]:
        student, teacher = logits / self.temperature, teacher_logits / self.temperature
        yes = torch.sigmoid(teacher)
        # Subtracted class by class: over sums, small divergences of many classes would be lost.
        cross, own = (F.binary_cross_entropy_with_logits(x, yes, reduction="none") for x in (student, teacher))
        return self.temperature**2 * (cross - own).sum(dim=-1)
