"""Decoupled knowledge distillation: the target class and the other classes are matched separately."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.kinds import LabelledDistillationLoss, LabelledRows
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities, log_probabilities_within, log_total
from lightning_losses.numerics.rows import pick, without_class
from lightning_losses.numerics.settings import Temperature, Weight


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
        other = log_total(without_class(log_p, target)).squeeze(-1)
        binary.append(torch.stack([pick(log_p, target), other], dim=-1))
        others.append(log_probabilities_within(without_class(scores, target), temperature))
    return DKDParts(kl_divergence(*binary), kl_divergence(*others))


class DKD(LabelledDistillationLoss):
    """Decoupled knowledge distillation: the target class and the other classes are matched separately.

    ``τ² (α KL([t_y, 1 - t_y] || [s_y, 1 - s_y]) + β KL(t̂ || ŝ))`` at temperature τ, where t̂ and ŝ are the softmax over
    all classes but the target y. With α = 1 and β = 1 - t_y it would be `KD`, where a confident teacher suppresses its
    knowledge of the other classes; here it doesn't.

    Args:
        alpha: α, weight of the target-class part, at least 0.
        beta: β, weight of the part of the other classes, at least 0; the authors tune it from 2 to 8.
        temperature: τ, above 0.

    Shapes:
        logits, teacher_logits: [..., C], C of at least 2; target: [...], or [..., C] probabilities, whose largest
        class is the target.

    Returns:
        A scalar, or [...] without reduction. A class that the student alone masks has probability e^-100 instead of 0.
        If the teacher masks all other classes, only the target's part is used.

    Raises:
        ValueError: shapes or dtypes that do not fit; weights below 0; a temperature of 0 or less.

    Source:
        Zhao, Cui, Song, Qiu, Liang, 2022, "Decoupled Knowledge Distillation", arXiv:2203.08679, and its code
        megvii-research/mdistiller. The authors raise its weight from 0 to 1 over the first 20 of 240 epochs. The code
        subtracts 1000 from the target logit; this masks it.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
        >>> round(DKD(temperature=1.0)(logits, logits.flip(-1), target).item(), 4)
        8.2412
    """

    status = "confirmed"
    evidence = "megvii-research/mdistiller"

    alpha: Weight = 1.0
    beta: Weight = 8.0
    temperature: Temperature = 4.0

    def rows(self, given: LabelledRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        parts = dkd_parts(given.logits, given.teacher_logits, given.label, self.temperature)
        return self.temperature**2 * (self.alpha * parts.target_class + self.beta * parts.non_target_class)
