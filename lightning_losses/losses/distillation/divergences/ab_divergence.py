"""α-β-divergence: two exponents trade covering the teacher's classes against keeping to them."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_number, check_temperature
from lightning_losses.numerics.divergences import expectation
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def _divergence(log_s: Tensor, log_t: Tensor, alpha: float, beta: float) -> Float[Tensor, "*rows"]:
    difference = log_t - log_s
    if alpha == 0 and beta == 0:
        return difference.masked_fill(~torch.isfinite(difference), 0.0).square().sum(dim=-1) / 2
    if alpha == 0 or beta == 0:
        power = alpha + beta
        first, second = (log_t, log_s) if beta == 0 else (log_s, log_t)
        linear = (power * second).exp().sum(dim=-1) - (power * first).exp().sum(dim=-1)
        return (power * expectation(power * first, first - second) + linear) / power**2
    total = alpha + beta
    terms = (
        (alpha * log_t + beta * log_s).exp()
        - alpha / total * (total * log_t).exp()
        - beta / total * (total * log_s).exp()
    )
    return -terms.sum(dim=-1) / (alpha * beta)


def ab_divergence_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    alpha: float = 0.2,
    beta: float = 0.7,
    temperature: float = 1.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """α-β-divergence; see `ABDivergence`."""
    check_number("ab_divergence", "alpha", alpha, least=0)
    check_number("ab_divergence", "beta", beta, least=0)
    check_temperature("ab_divergence", temperature)
    check_reduction("ab_divergence", reduction)
    rows = distillation_rows("ab_divergence", logits, teacher_logits, target, ignore_index)
    log_s = log_probabilities(rows.logits, temperature)
    log_t = log_probabilities(rows.teacher_logits, temperature)
    return reduce(_divergence(log_s, log_t, alpha, beta), reduction, rows.kept)


class ABDivergence(Loss):
    """α-β-divergence: two exponents trade covering the teacher's classes against keeping to them.

    ``-sum_k (t_k^α s_k^β - α/(α+β) t_k^(α+β) - β/(α+β) s_k^(α+β)) / (α β)`` with ``s = softmax(logits / τ)`` and ``t =
    softmax(teacher_logits / τ)``, and its limits where an exponent is 0: KL(t || s) at (1, 0), KL(s || t) at (0, 1),
    half the squared distance of the log-probabilities at (0, 0). α weighs how large the error is, β how sure the
    student is.

    Args:
        alpha: α, at least 0.
        beta: β, at least 0. Exponents below 0 are infinite for classes without probability and not offered.
        temperature: τ, above 0.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

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

    def __init__(
        self,
        alpha: float = 0.2,
        beta: float = 0.7,
        temperature: float = 1.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_number("ab_divergence", "alpha", alpha, least=0)
        check_number("ab_divergence", "beta", beta, least=0)
        check_temperature("ab_divergence", temperature)
        check_reduction("ab_divergence", reduction)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return ab_divergence_loss(
            logits,
            teacher_logits,
            target,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
