"""Adaptive divergence: forward and reverse, weighted by where student and teacher disagree."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import kl_divergences
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.settings import Share, Temperature


class AdaptiveKL(DistillationLoss):
    """Adaptive divergence: forward and reverse, weighted by where student and teacher disagree.

    ``w KL(t || s) + (1 - w) KL(s || t)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits / τ)``. w is
    the share of ``sum_k |t_k - s_k|`` that falls on the head. The head is the teacher's likeliest classes, at least
    one, that together have at most `head_mass`. w has no gradient.

    Args:
        head_mass: the largest teacher probability of the head, in [0, 1].
        temperature: τ, above 0.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction. A class that one network alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a head_mass outside [0, 1]; a temperature of 0 or less.

    Source:
        Wu, Tao, Wang, Yang, Zhao, Wong, 2024, "Rethinking Kullback-Leibler Divergence in Knowledge Distillation for
        Large Language Models", arXiv:2404.02657, as re-implemented in ghwang-s/abkd.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(AdaptiveKL()(logits, -logits).item(), 4)  # symmetric here: both divergences are equal
        1.5232
    """

    status = "paper"
    evidence = "ghwang-s/abkd, not the authors' code"

    needs_tail = True

    head_mass: Share = 0.5
    temperature: Temperature = 1.0

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s = log_probabilities(given.logits, self.temperature)
        log_t = log_probabilities(given.teacher_logits, self.temperature)
        # Detached, since no_grad does not stop derivatives in forward mode.
        t, order = log_t.exp().sort(dim=-1, descending=True)
        gap = (t - log_s.detach().exp().gather(-1, order)).abs()
        head = t.cumsum(dim=-1) <= self.head_mass
        head[..., 0] = True
        total = gap.sum(dim=-1)
        weight = (gap * head).sum(dim=-1) / torch.where(total > 0, total, 1.0)
        forward, reverse = kl_divergences(log_t, log_s)
        return weight * forward + (1 - weight) * reverse
