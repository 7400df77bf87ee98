"""Adaptive divergence: forward and reverse, weighted by where student and teacher disagree."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_number, check_temperature
from lightning_losses.numerics.divergences import kl_divergences
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def adaptive_kl_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    head_mass: float = 0.5,
    temperature: float = 1.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Adaptive divergence; see `AdaptiveKL`."""
    check_number("adaptive_kl", "head_mass", head_mass, least=0, most=1)
    check_temperature("adaptive_kl", temperature)
    check_reduction("adaptive_kl", reduction)
    rows = distillation_rows("adaptive_kl", logits, teacher_logits, target, ignore_index)
    log_s = log_probabilities(rows.logits, temperature)
    log_t = log_probabilities(rows.teacher_logits, temperature)
    with torch.no_grad():
        t, order = log_t.exp().sort(dim=-1, descending=True)
        gap = (t - log_s.exp().gather(-1, order)).abs()
        head = t.cumsum(dim=-1) <= head_mass
        head[..., 0] = True
        total = gap.sum(dim=-1)
        weight = (gap * head).sum(dim=-1) / torch.where(total > 0, total, 1.0)
    forward, reverse = kl_divergences(log_t, log_s)
    value = weight * forward + (1 - weight) * reverse
    return reduce(value, reduction, rows.kept)


class AdaptiveKL(Loss):
    """Adaptive divergence: forward and reverse, weighted by where student and teacher disagree.

    ``w KL(t || s) + (1 - w) KL(s || t)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits / τ)``. w is
    the share of ``sum_k |t_k - s_k|`` that falls on the head: the teacher's likeliest classes, as many as hold at most
    `head_mass` together, at least one. w has no gradient.

    Args:
        head_mass: the teacher's probability mass that makes the head, in [0, 1].
        temperature: τ, above 0.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

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
    evidence = "ghwang-s/abkd, which is not its authors'"

    def __init__(
        self,
        head_mass: float = 0.5,
        temperature: float = 1.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_number("adaptive_kl", "head_mass", head_mass, least=0, most=1)
        check_temperature("adaptive_kl", temperature)
        check_reduction("adaptive_kl", reduction)
        self.head_mass = head_mass
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
        return adaptive_kl_loss(
            logits,
            teacher_logits,
            target,
            head_mass=self.head_mass,
            temperature=self.temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
