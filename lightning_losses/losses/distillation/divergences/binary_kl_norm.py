"""Normalised binary divergence: each logit is matched on its own, relative to the teacher's."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import over_finite_logarithms
from lightning_losses.numerics.settings import Temperature


class BinaryKLNorm(DistillationLoss):
    """Normalised binary divergence: each logit is matched on its own, relative to the teacher's.

    ``τ² sum_k log cosh((logits_k - teacher_logits_k) / (2 τ))``, which is ``τ² sum_k KL(Bernoulli(1/2) ||
    Bernoulli(sigmoid((logits_k - teacher_logits_k) / τ)))``. Near the teacher it is ``|logits - teacher_logits|² / 8``;
    far away it grows linearly. Unlike divergences of softmax it depends on the shift of the logits. The authors apply
    it to a second head of the student on the same features, which is dropped after training (``inputs: {logits: <the
    second head's name>}``).

    Args:
        temperature: τ, above 0.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. A class that one network alone masks by -inf has a logit of -100 there
        instead.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Yang, Zong, Huang, Feng, An, 2024, "Dual-Head Knowledge Distillation: Enhancing Logits Utilization with an
        Auxiliary Head", arXiv:2411.08937, and its code penghui-yang/DHKD, which clamps sigmoids and so becomes infinite
        in float32 if logits are far apart; this form does not.

    Example:
        >>> round(BinaryKLNorm()(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])).item(), 4)
        0.4805
    """

    status = "confirmed"
    least_classes = 1
    needs_tail = True
    evidence = "penghui-yang/DHKD"

    temperature: Temperature = 2.0

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        return over_finite_logarithms(self._log_cosh, given.logits, given.teacher_logits)

    def _log_cosh(
        self, logits: Float[Tensor, "*rows classes"], teacher_logits: Float[Tensor, "*rows classes"]
    ) -> Float[Tensor, "*rows"]:
        x = (logits - teacher_logits) / (2 * self.temperature)
        # Near 0 a small value would be lost beside log 2; the first form has none, and there the rest is 0.
        step = F.hardtanh(x)
        grown = torch.expm1(2 * step)
        # The square of the hyperbolic sine, which itself takes ten times as long.
        near = torch.log1p(grown.square() / (4 * (grown + 1))) / 2
        rest = F.softplus(2 * x) - F.softplus(2 * step) - (x - step)
        return self.temperature**2 * (near + rest).sum(dim=-1)
