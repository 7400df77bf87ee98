"""Class-relation distillation: keeps how new samples relate to the known classes while new classes are discovered."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating, check_tensor
from lightning_losses.numerics.divergences import expectation
from lightning_losses.numerics.probabilities import (
    full_precision,
    log_probabilities,
    log_probabilities_within,
    log_total,
)
from lightning_losses.numerics.rows import classification_rows
from lightning_losses.numerics.settings import Temperature


class ClassRelationKD(Loss):
    """Class-relation distillation: keeps how new samples relate to the known classes while new classes are discovered.

    ``τ² g_i (-sum_k q_k log p_k)``, averaged over the unlabelled samples, with q and p the softmax over the known
    classes of the old and the current network's logits divided by ``h τ``. The gate g is the current network's
    probability, at the same temperature, that the sample is of a known class, divided by the mean of this probability;
    the gate has a gradient too.

    Args:
        temperature: τ, above 0.
        head_temperature: h, the temperature of the networks' own head, above 0.

    Shapes:
        logits: [..., C], the known classes first; teacher_logits: [..., known]; unlabelled (optional, all by default):
        [...] bool. Views and heads may be leading dimensions; the gate's mean is over all of them.

    Returns:
        A scalar; 0 without an unlabelled sample. A known class that the student alone masks has probability e^-100
        instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; fewer than two known classes; temperatures of 0 or less.

    Source:
        Gu, Zhang, Xu, He, 2023, "Class-relation Knowledge Distillation for Novel Class Discovery", arXiv:2307.09158,
        and its code kleinzcy/Cr-KD-NCD (weight 0.1, τ = 4), which gives NaN if no sample is unlabelled.

    Example:
        >>> logits = torch.zeros(2, 5)
        >>> round(ClassRelationKD(temperature=1.0)(logits, torch.zeros(2, 3)).item(), 4)  # log 3
        1.0986
    """

    batch_coupled = True
    status = "confirmed"
    evidence = "kleinzcy/Cr-KD-NCD"

    temperature: Temperature = 4.0
    head_temperature: Temperature = 0.1

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows known"],
        unlabelled: Bool[Tensor, "*rows"] | None = None,
    ) -> Float[Tensor, ""]:
        """Check and evaluate; see the class."""
        student = classification_rows(self._identifier, logits, None, shaped=unlabelled is not None).logits
        check_floating(self._identifier, "teacher_logits", teacher_logits)
        known = teacher_logits.shape[-1] if teacher_logits.ndim else 0
        if teacher_logits.shape[:-1] != logits.shape[:-1] or not 2 <= known <= logits.shape[-1]:
            raise ValueError(
                f"{self._identifier}: teacher_logits of shape {list(teacher_logits.shape)} came with logits of shape "
                f"{list(logits.shape)}; give the same samples, and the known classes first, at least two."
            )
        if unlabelled is not None:
            check_tensor(self._identifier, "unlabelled", unlabelled)
        if unlabelled is not None and (unlabelled.shape != logits.shape[:-1] or unlabelled.dtype != torch.bool):
            raise ValueError(
                f"{self._identifier}: unlabelled of shape {list(unlabelled.shape)} and dtype {unlabelled.dtype} came; "
                f"give a bool for each sample, {list(logits.shape[:-1])}."
            )
        if student.numel() == 0:
            return student.sum() * 0.0
        teacher = full_precision(teacher_logits.detach()).to(student.dtype)
        kept = torch.ones_like(student[..., 0], dtype=torch.bool) if unlabelled is None else unlabelled
        count = kept.sum().clamp(min=1)
        scale = self.head_temperature * self.temperature
        log_gate = log_total(log_probabilities(student, scale)[..., :known]).squeeze(-1)
        # In the log domain the mean of a gate that is nearly 0 everywhere doesn't underflow.
        total = torch.logsumexp(torch.where(kept, log_gate, torch.finfo(student.dtype).min).flatten(), dim=0)
        gate = torch.where(kept, log_gate - total, 0.0).exp() * count
        log_p = log_probabilities_within(student[..., :known], scale)
        cross_entropy = -expectation(log_probabilities(teacher, scale), log_p)
        return self.temperature**2 * (gate * cross_entropy).masked_fill(~kept, 0.0).sum() / count
