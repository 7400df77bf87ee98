"""Normalised knowledge distillation: the other classes are matched by their own distribution."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import LabelledDistillationLoss, LabelledRows
from lightning_losses.numerics.divergences import expectation
from lightning_losses.numerics.probabilities import log_probabilities, log_probabilities_within
from lightning_losses.numerics.rows import pick, without_class
from lightning_losses.numerics.settings import Temperature, Weight


class NKD(LabelledDistillationLoss):
    """Normalised knowledge distillation: the other classes are matched by their own distribution.

    ``-t_y log s_y - γ τ² sum_k t̂_k log ŝ_k``: the target's term at temperature 1, and the cross-entropy of the other
    classes' softmax t̂ and ŝ at temperature τ. Cross-entropy to the whole teacher weighs the other classes by 1 - t_y
    and couples them to s_y; this weighs them by γ and doesn't couple them. It is a cross-entropy, not a divergence: if
    the student equals the teacher, neither value nor gradient is 0.

    Args:
        gamma: γ, weight of the other classes, at least 0.
        temperature: τ of the other classes, above 0.

    Shapes:
        logits, teacher_logits: [..., C], C of at least 2; target: [...], or [..., C] probabilities, whose largest
        class is the target.

    Returns:
        A scalar, or [...] without reduction. Infinite where the target's class is masked in the student. Any other
        class that the student alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; a gamma below 0; a temperature of 0 or less.

    Source:
        Yang, Zeng, Li, Zhang, Yuan, Li, 2023, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified
        Approach with Normalized Loss and Customized Soft Labels", arXiv:2303.13005, and its code yzd-v/cls_KD.
        Defaults are those for ImageNet; for CIFAR-100 the authors take γ = 3.5, τ = 3. Add it to cross-entropy of
        weight 1.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
        >>> round(NKD()(logits, logits.flip(-1), target).item(), 4)
        1.7982
    """

    status = "confirmed"
    evidence = "yzd-v/cls_KD"

    gamma: Weight = 1.5
    temperature: Temperature = 1.0

    def rows(self, given: LabelledRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        log_s, log_t = log_probabilities(given.logits), log_probabilities(given.teacher_logits)
        target_term = -pick(log_t, given.label).exp() * pick(log_s, given.label)
        others = -expectation(
            log_probabilities_within(without_class(given.teacher_logits, given.label), self.temperature),
            log_probabilities_within(without_class(given.logits, given.label), self.temperature),
        )
        return target_term + self.gamma * self.temperature**2 * others
