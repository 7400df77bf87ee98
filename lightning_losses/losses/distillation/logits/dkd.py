"""Decoupled knowledge distillation: the target class and the other classes are matched separately."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_number, check_temperature
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import class_indices, distillation_rows, pick, without_class


class DKDParts(NamedTuple):
    """The two divergences of each row, without weights or temperature factor."""

    target_class: Float[Tensor, "*rows"]
    non_target_class: Float[Tensor, "*rows"]


def dkd_parts(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Int[Tensor, "*rows"],
    temperature: float = 4.0,
) -> DKDParts:
    """``KL([t_y, 1 - t_y] || [s_y, 1 - s_y])`` and ``KL(t without y || s without y)`` per row; see `DKD`."""
    binary, others = [], []
    for scores in (teacher_logits, logits):
        log_p = log_probabilities(scores, temperature)
        other = torch.logsumexp(without_class(log_p, target), dim=-1)
        binary.append(torch.stack([pick(log_p, target), other], dim=-1))
        others.append(log_probabilities(without_class(scores, target), temperature))
    return DKDParts(kl_divergence(*binary), kl_divergence(*others))


def dkd_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Decoupled knowledge distillation; see `DKD`."""
    check_number("dkd", "alpha", alpha, least=0)
    check_number("dkd", "beta", beta, least=0)
    check_temperature("dkd", temperature)
    check_reduction("dkd", reduction)
    rows = distillation_rows("dkd", logits, teacher_logits, target, ignore_index)
    if logits.shape[-1] < 2:
        raise ValueError(f"dkd: logits of shape {list(logits.shape)} came; give at least 2 classes.")
    assert rows.target is not None
    parts = dkd_parts(rows.logits, rows.teacher_logits, class_indices(rows.target), temperature)
    value = temperature**2 * (alpha * parts.target_class + beta * parts.non_target_class)
    return reduce(value, reduction, rows.kept)


class DKD(Loss):
    """Decoupled knowledge distillation: the target class and the other classes are matched separately.

    ``τ² (α KL([t_y, 1 - t_y] || [s_y, 1 - s_y]) + β KL(t̂ || ŝ))`` at temperature τ, where t̂ and ŝ are the softmax over
    all classes but the target y. With α = 1 and β = 1 - t_y it would be `KD`: what is decoupled is that a confident
    teacher no longer silences what it knows of the other classes.

    Args:
        alpha: α, weight of the target-class part, at least 0.
        beta: β, weight of the part of the other classes, at least 0; the authors tune it from 2 to 8.
        temperature: τ, above 0.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C], C of at least 2; target: [...], or [..., C] probabilities, whose largest
        class is the target.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; weights below 0; a temperature of 0 or less.

    Source:
        Zhao, Cui, Song, Qiu, Liang, 2022, "Decoupled Knowledge Distillation", arXiv:2203.08679, and its code
        megvii-research/mdistiller. The authors raise its weight from 0 to 1 over the first 20 of 240 epochs. The code
        takes 1000 from the target logit, where this masks it.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
        >>> round(DKD(temperature=1.0)(logits, logits.flip(-1), target).item(), 4)
        8.2412
    """

    status = "confirmed"
    evidence = "megvii-research/mdistiller"

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_number("dkd", "alpha", alpha, least=0)
        check_number("dkd", "beta", beta, least=0)
        check_temperature("dkd", temperature)
        check_reduction("dkd", reduction)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return dkd_loss(
            logits,
            teacher_logits,
            target,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
