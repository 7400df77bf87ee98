"""α-β-divergence: two exponents trade covering the teacher's classes against keeping to them."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import alpha_beta_terms, weighted_log_ratio
from lightning_losses.numerics.probabilities import finite_logarithms, known_everywhere, log_probabilities
from lightning_losses.numerics.rows import on_shared_support
from lightning_losses.numerics.settings import Temperature

# Exponents below NEAR are near a limit, where the formula subtracts nearly equal numbers; below AT they are at it.
NEAR, AT = 0.05, 1e-15


class ABDivergence(DistillationLoss):
    """α-β-divergence: two exponents trade covering the teacher's classes against keeping to them.

    ``-sum_k (t_k^α s_k^β - α/(α+β) t_k^(α+β) - β/(α+β) s_k^(α+β)) / (α β)`` with ``s = softmax(logits / τ)`` and ``t =
    softmax(teacher_logits / τ)``, and its limits where an exponent or their sum is 0: KL(t || s) at (1, 0), KL(s || t)
    at (0, 1), half the squared distance of the log-probabilities at (0, 0). α weighs how large the error is, β how sure
    the student is.

    Args:
        alpha: α, any number.
        beta: β, any number. Where α, β or their sum is below 0, improbable classes weigh most, and the value overflows
            for logits that are far apart.
        temperature: τ, above 0.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. With both exponents above 0 it is finite for any masked classes. At (α, 0)
        a class that the student alone masks, and at (0, β) one that the teacher alone masks, has probability e^-100
        instead of 0. With other exponents the classes that either network masks are left out, as with `shared_support`.

    Raises:
        ValueError: shapes or dtypes that do not fit; an exponent that is no number; a temperature of 0 or less.

    Source:
        Wang, Yang, Wang, Wang, Xu, Huang, 2025, "ABKD: Pursuing a Proper Allocation of the Probability Mass in
        Knowledge Distillation via α-β-Divergence", arXiv:2505.04560, and its code ghwang-s/abkd; exponents 0.2 and 0.7
        from there. If one exponent is 0 and the other is not 1, the code divides by the other exponent, the definition
        (Cichocki, Cruces, Amari, 2011) by its square; this follows the definition.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(ABDivergence(1.0, 0.0)(logits, -logits).item(), 4)  # KL(t || s)
        1.5232
    """

    status = "confirmed"
    evidence = "ghwang-s/abkd"

    alpha: float = 0.2
    beta: float = 0.7
    temperature: Temperature = 1.0

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        alpha, beta, total = (0.0 if abs(x) < AT else x for x in (self.alpha, self.beta, self.alpha + self.beta))
        student, teacher = given.logits, given.teacher_logits
        positive = min(alpha, beta) >= 0 and total > 0
        if not positive:
            student, teacher = on_shared_support(student, teacher)
        log_s, log_t = log_probabilities(student, self.temperature), log_probabilities(teacher, self.temperature)
        if not positive:
            # A class masked in both networks adds nothing.
            masked = torch.isneginf(student)
            log_s, log_t = log_s.masked_fill(masked, 0.0), log_t.masked_fill(masked, 0.0)
        if any(0 < abs(exponent) < NEAR for exponent in (alpha, beta, total)):
            return _near_a_limit(log_t, log_s, alpha, beta)
        if alpha == beta == 0:
            return (log_t - log_s).square().sum(dim=-1) / 2
        if total == 0:
            ratio = alpha * (log_t - log_s)
            return (torch.expm1(ratio) - ratio).sum(dim=-1) / alpha**2
        if alpha == 0 or beta == 0:
            return _at_a_limit(*((log_t, log_s) if beta == 0 else (log_s, log_t)), total)
        return _between_limits(log_t, log_s, alpha, beta)


def _between_limits(
    log_t: Float[Tensor, "*rows classes"], log_s: Float[Tensor, "*rows classes"], alpha: float, beta: float
) -> Float[Tensor, "*rows"]:
    total, difference = alpha + beta, log_t - log_s
    powers_t, powers_s = (total * log_t).exp(), (total * log_s).exp()
    apart = alpha / total * powers_t + beta / total * powers_s - (alpha * log_t + beta * log_s).exp()
    # Near each other, relative to s: equal probabilities then give exactly 0, also in single precision.
    near = difference.abs() < 1
    ratio = difference.masked_fill(~near, 0.0)
    excess = alpha / total * torch.expm1(total * ratio) - torch.expm1(alpha * ratio)
    return torch.where(near, powers_s * excess, apart).sum(dim=-1) / (alpha * beta)


def _at_a_limit(
    first: Float[Tensor, "*rows classes"], second: Float[Tensor, "*rows classes"], total: float
) -> Float[Tensor, "*rows"]:
    powers, ratio = (total * first).exp(), total * (first - second)
    near = ratio.abs() < 1
    ratio = ratio.masked_fill(~near, 0.0)
    excess = powers.masked_fill(~near, 0.0) * (torch.expm1(-ratio) + ratio)
    linear = ((total * second).exp() - powers).masked_fill(near, 0.0)
    apart = total * weighted_log_ratio(powers.masked_fill(near, 0.0), first, second)
    return ((excess + linear).sum(dim=-1) + apart) / total**2


def _near_a_limit(
    log_t: Float[Tensor, "*rows classes"], log_s: Float[Tensor, "*rows classes"], alpha: float, beta: float
) -> Float[Tensor, "*rows"]:
    without_t, without_s = torch.isneginf(log_t), torch.isneginf(log_s)
    masked = without_t | without_s
    terms = alpha_beta_terms(log_t.masked_fill(masked, 0.0), log_s.masked_fill(masked, 0.0), alpha, beta)
    if not known_everywhere(~masked):
        # Exponents are at least 0 here, and one of three terms remains; if its exponent is 0, it is infinite.
        for only, exponent, kept in ((without_t & ~without_s, alpha, log_s), (without_s & ~without_t, beta, log_t)):
            if exponent == 0:
                finite_t, finite_s = (finite_logarithms(one).masked_fill(~only, 0.0) for one in (log_t, log_s))
                terms = terms + alpha_beta_terms(finite_t, finite_s, alpha, beta)
            else:
                total = alpha + beta
                terms = terms + (total * kept.masked_fill(~only, -torch.inf)).exp() / (exponent * total)
    return terms.sum(dim=-1)
