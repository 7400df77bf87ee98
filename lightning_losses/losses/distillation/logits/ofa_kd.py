"""One-for-all distillation: the label strengthens the teacher's probability of the target class."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import LabelledDistillationLoss, LabelledRows
from lightning_losses.numerics.divergences import weighted_sum
from lightning_losses.numerics.probabilities import log_probabilities, probabilities
from lightning_losses.numerics.rows import one_hot
from lightning_losses.numerics.settings import Temperature, Weight


class OFAKD(LabelledDistillationLoss):
    """One-for-all distillation: the label strengthens the teacher's probability of the target class.

    ``-sum_k ((t_k + q_k)^γ - q_k) log s_k`` with ``s = softmax(logits / τ)``, ``t = softmax(teacher_logits / τ)`` and q
    the one-hot (or given) target. At γ = 1 it is cross-entropy to the teacher; a larger γ weighs the target class by up
    to ``(1 + t_y)^γ - 1`` and shrinks the others, for teachers of another architecture, whose other classes are a poor
    guide.

    Args:
        gamma: γ, at least 0; the authors take 1 to 1.5.
        temperature: τ, above 0.

    Shapes:
        logits, teacher_logits: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction. A class that the student alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a gamma below 0; a temperature of 0 or less.

    Source:
        Hao, Guo, Han, Tang, Hu, Wang, Xu, 2023, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in
        Knowledge Distillation", arXiv:2310.19444, and its code Hao840/OFAKD, which raises every class to γ and has no
        τ². The code applies it to the last logits and to those of branches from earlier stages, next to cross-entropy,
        all with weight 1.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> round(OFAKD(gamma=1.0)(logits, -logits, target).item(), 4)
        1.8885
    """

    status = "confirmed"
    evidence = "Hao840/OFAKD"

    gamma: Weight = 1.5
    temperature: Temperature = 1.0

    def rows(self, given: LabelledRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s = log_probabilities(given.logits, self.temperature)
        t, label = probabilities(given.teacher_logits, self.temperature), given.target
        if not label.is_floating_point():
            label = one_hot(label, t)
        if self.gamma == 0:
            # At γ = 0 all classes weigh the same, except those that both networks mask.
            absent = torch.isneginf(given.logits) & torch.isneginf(given.teacher_logits)
            log_s = log_s.masked_fill(absent, 0.0)
        return -weighted_sum((t + label).pow_(self.gamma).sub_(label), log_s)
