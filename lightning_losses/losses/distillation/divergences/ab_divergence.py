"""α-β-divergence: two exponents trade covering the teacher's classes against keeping to them."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.losses.settings import Temperature, Weight
from lightning_losses.numerics.divergences import expectation
from lightning_losses.numerics.probabilities import log_probabilities


class ABDivergence(DistillationLoss):
    """α-β-divergence: two exponents trade covering the teacher's classes against keeping to them.

    ``-sum_k (t_k^α s_k^β - α/(α+β) t_k^(α+β) - β/(α+β) s_k^(α+β)) / (α β)`` with ``s = softmax(logits / τ)`` and ``t =
    softmax(teacher_logits / τ)``, and its limits where an exponent is 0: KL(t || s) at (1, 0), KL(s || t) at (0, 1),
    half the squared distance of the log-probabilities at (0, 0). α weighs how large the error is, β how sure the
    student is.

    Args:
        alpha: α, at least 0.
        beta: β, at least 0. Exponents below 0 are infinite for classes without probability and not offered.
        temperature: τ, above 0.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; an exponent below 0; a temperature of 0 or less.

    Source:
        Wang, Yang, Wang, Wang, Xu, Huang, 2025, "ABKD: Pursuing a Proper Allocation of the Probability Mass in
        Knowledge Distillation via α-β-Divergence", arXiv:2505.04560, and its code ghwang-s/abkd; exponents 0.2 and 0.7
        from there. With one exponent 0 and the other not 1 the code divides by that exponent, the definition (Cichocki,
        Cruces, Amari, 2011) by its square; this follows the definition.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(ABDivergence(1.0, 0.0)(logits, -logits).item(), 4)  # KL(t || s)
        1.5232
    """

    status = "confirmed"
    evidence = "ghwang-s/abkd"

    alpha: Weight = 0.2
    beta: Weight = 0.7
    temperature: Temperature = 1.0

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s = log_probabilities(given.logits, self.temperature)
        log_t = log_probabilities(given.teacher_logits, self.temperature)
        alpha, beta, total = self.alpha, self.beta, self.alpha + self.beta
        if total == 0:
            difference = log_t - log_s
            return difference.masked_fill(~torch.isfinite(difference), 0.0).square().sum(dim=-1) / 2
        if alpha == 0 or beta == 0:
            first, second = (log_t, log_s) if beta == 0 else (log_s, log_t)
            linear = (total * second).exp().sum(dim=-1) - (total * first).exp().sum(dim=-1)
            return (total * expectation(total * first, first - second) + linear) / total**2
        terms = (
            (alpha * log_t + beta * log_s).exp()
            - alpha / total * (total * log_t).exp()
            - beta / total * (total * log_s).exp()
        )
        return -terms.sum(dim=-1) / (alpha * beta)
