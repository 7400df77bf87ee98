"""Adaptive α-divergence: whichever of two α-divergences is the larger on a sample."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.probabilities import finite_logarithms, known_finite, log_probabilities
from lightning_losses.numerics.settings import Positive


class AlphaDivergence(NamedTuple):
    """A divergence without gradient, and the weights of ``-log s`` whose weighted sum has its gradient."""

    value: Float[Tensor, "*rows"]
    weights: Float[Tensor, "*rows classes"]


@torch.no_grad()
def alpha_divergence(
    s: Float[Tensor, "*rows classes"],
    t: Float[Tensor, "*rows classes"],
    log_ratio: Float[Tensor, "*rows classes"],
    alpha: float,
    clip: float,
) -> AlphaDivergence:
    """The α-divergence per row of probabilities, with powers of ``t / s`` cut at `clip`."""
    if alpha == 1:
        return AlphaDivergence((t * log_ratio).sum(dim=-1), t)
    if alpha == 0:
        cut = log_ratio.clamp(max=math.log(clip))
        return AlphaDivergence(-(s * cut).sum(dim=-1), s * (cut - 1))
    power = (alpha * log_ratio).exp_().clamp_(max=clip)
    factor = 1 / (alpha * (alpha - 1))
    value = (s * (power - 1)).sum(dim=-1) * factor
    return AlphaDivergence(value, power.div_(alpha).add_(factor).mul_(s))


class AdaptiveAlphaDivergence(DistillationLoss):
    """Adaptive α-divergence: whichever of two α-divergences is the larger on a sample.

    With ``D_α = sum_k s_k ((t_k / s_k)^α - 1) / (α (α - 1))`` and its limits KL(t || s) at α = 1 and KL(s || t) at α =
    0, the larger of D at `alpha_min` and at `alpha_max`, sample by sample: one punishes a student that is too sure, the
    other one that is too spread. Powers of the ratio are cut at `clip`, in the value and in the gradient, which is that
    of the student as a source of samples (``-sum_k s_k ρ_k d log s_k`` with ρ, s constant).

    Args:
        alpha_min: the smaller α.
        alpha_max: the larger α.
        clip: the largest power of the ratio, above 0.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. Where one network alone masks a class an infinite power is `clip`. At
        α = 1 a class that the student alone masks, and at α = 0 one that the teacher alone does, counts as e^-100.

    Raises:
        ValueError: shapes or dtypes that do not fit; an alpha that is no number; a clip of 0 or less.

    Source:
        Wang, Gong, Li, Liu, Chandra, 2021, "AlphaNet: Improved Training of Supernets with Alpha-Divergence",
        arXiv:2102.07954, and its code facebookresearch/AlphaNet, whose value is the surrogate; here the value is the
        divergence, the gradient is the same.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(AdaptiveAlphaDivergence()(logits, -logits).item(), 4)
        1.7101
    """

    status = "paper"
    evidence = "xuke225/EQ-Net, which is not its authors'"

    alpha_min: float = -1.0
    alpha_max: float = 1.0
    clip: Positive = 5.0

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s, log_t = log_probabilities(given.logits), log_probabilities(given.teacher_logits)
        with torch.no_grad():
            s, t, log_ratio = log_s.exp(), log_t.exp(), log_t - log_s
        if not known_finite(log_ratio):
            log_s = finite_logarithms(log_s)
            log_ratio = finite_logarithms(log_t) - log_s.detach()
        low, high = (alpha_divergence(s, t, log_ratio, alpha, self.clip) for alpha in (self.alpha_min, self.alpha_max))
        larger = low.value > high.value
        surrogate = -(torch.where(larger.unsqueeze(-1), low.weights, high.weights) * log_s).sum(dim=-1)
        # The value of the divergence with the gradient of the surrogate.
        return torch.where(larger, low.value, high.value) + surrogate - surrogate.detach()
