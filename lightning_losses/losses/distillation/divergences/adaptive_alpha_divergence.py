"""Adaptive α-divergence: the larger of two α-divergences, sample by sample."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.distillation.divergences.ab_divergence import AT, NEAR
from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import alpha_beta_terms
from lightning_losses.numerics.probabilities import finite_logarithms, known_finite, log_probabilities
from lightning_losses.numerics.settings import Positive

# An α this near to 0 or 1 is cut as the limit is, as in the authors' code.
CUT_AS_LIMIT = 1e-3


class AlphaDivergence(NamedTuple):
    """A divergence without gradient, and the weights of ``-log s`` whose weighted sum has its gradient."""

    value: Float[Tensor, "*rows"]
    weights: Float[Tensor, "*rows classes"]


@torch.no_grad()
def alpha_divergence(
    log_s: Float[Tensor, "*rows classes"], log_t: Float[Tensor, "*rows classes"], alpha: float, clip: float
) -> AlphaDivergence:
    """The α-divergence per row of finite logarithms, with powers of ``t / s`` cut at `clip`."""
    s, log_ratio = log_s.exp(), log_t - log_s
    # t - s, whose sum is 0: it keeps every term as small as the divergence where t and s are near each other.
    linear = torch.where(log_ratio.abs() < 1, s * torch.expm1(log_ratio), log_t.exp() - s)
    if abs(alpha - 1) < CUT_AS_LIMIT:
        t = log_t.exp()
        if abs(alpha - 1) < AT:
            return AlphaDivergence((t * log_ratio - linear).sum(dim=-1), t)
        value = alpha_beta_terms(log_t, log_s, alpha, 1 - alpha).sum(dim=-1)
        return AlphaDivergence(value, (alpha * log_t + (1 - alpha) * log_s).exp() / alpha)
    if abs(alpha) < NEAR:
        if abs(alpha) < CUT_AS_LIMIT:
            log_ratio = log_ratio.clamp(max=math.log(clip))
        # (power - 1) / α, whose limit is the logarithm.
        power = torch.expm1(alpha * log_ratio).clamp(max=clip - 1) / alpha if abs(alpha) >= AT else log_ratio
        return AlphaDivergence((s * power - linear).sum(dim=-1) / (alpha - 1), s * (power - 1))
    power = (alpha * log_ratio).exp().clamp(max=clip)
    if abs(alpha - 1) < NEAR:
        cut = (s * ((clip - 1) / alpha) - linear) / (alpha - 1)
        terms = torch.where(alpha * log_ratio > math.log(clip), cut, alpha_beta_terms(log_t, log_s, alpha, 1 - alpha))
        return AlphaDivergence(terms.sum(dim=-1), power * s / alpha)
    factor = 1 / (alpha * (alpha - 1))
    excess = torch.where(log_ratio.abs() < 1, torch.expm1(alpha * log_ratio).clamp(max=clip - 1), power - 1)
    value = (s * excess - alpha * linear).sum(dim=-1) * factor
    return AlphaDivergence(value, power.div_(alpha).add_(factor).mul_(s))


class AdaptiveAlphaDivergence(DistillationLoss):
    """Adaptive α-divergence: the larger of two α-divergences, sample by sample.

    With ``D_α = sum_k s_k ((t_k / s_k)^α - 1) / (α (α - 1))`` and its limits KL(t || s) at α = 1 and KL(s || t) at α =
    0, the value is the larger of D at `alpha_min` and at `alpha_max`: one punishes a student that is too sure, the
    other a student that is too spread out. Powers of the ratio are cut at `clip`, in the value and in the gradient
    ``-sum_k s_k ρ_k d log s_k`` (ρ and s constant). If α is within 1e-3 of 0, the ratio itself is cut; within 1e-3 of 1
    nothing is. The limits do the same.

    Args:
        alpha_min: the smaller α.
        alpha_max: the larger α.
        clip: the largest power of the ratio, above 0.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. Where one network alone masks a class, an infinite power becomes `clip`.
        At α = 1 a class that the student alone masks, and at α = 0 one that the teacher alone masks, has probability
        e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; an alpha that is no number; a clip of 0 or less.

    Source:
        Wang, Gong, Li, Liu, Chandra, 2021, "AlphaNet: Improved Training of Supernets with Alpha-Divergence",
        arXiv:2102.07954, and its code facebookresearch/AlphaNet. The code returns a surrogate; this returns the
        divergence, with the same gradient.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(AdaptiveAlphaDivergence()(logits, -logits).item(), 4)
        1.7101
    """

    status = "paper"
    evidence = "xuke225/EQ-Net, not the authors' code"

    alpha_min: float = -1.0
    alpha_max: float = 1.0
    clip: Positive = 5.0

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s, log_t = log_probabilities(given.logits), log_probabilities(given.teacher_logits)
        if not known_finite(log_t - log_s.detach()):
            log_s, log_t = finite_logarithms(log_s), finite_logarithms(log_t)
        # Detached, since no_grad does not stop derivatives in forward mode.
        constant = log_s.detach()
        low, high = (alpha_divergence(constant, log_t, alpha, self.clip) for alpha in (self.alpha_min, self.alpha_max))
        larger = low.value > high.value
        surrogate = -(torch.where(larger.unsqueeze(-1), low.weights, high.weights) * log_s).sum(dim=-1)
        # The value of the divergence with the gradient of the surrogate.
        return torch.where(larger, low.value, high.value) + surrogate - surrogate.detach()
