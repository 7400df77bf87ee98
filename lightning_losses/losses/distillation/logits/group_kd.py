"""Group distillation: matches probabilities within each group of classes, such as those of each continual task."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import DistillationLoss, DistillationRows
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities_within
from lightning_losses.numerics.settings import Temperature


class GroupKD(DistillationLoss):
    """Group distillation: matches probabilities within each group of classes, such as those of each continual task.

    ``mean over groups G of τ² KL(t_G || s_G)``, with t_G and s_G the teacher's and the student's softmax, at
    temperature τ, over only the classes of G. The labels alone teach the probability of each group. Softmax over one
    class, such as the background, is constant: a group of one class takes the divergence of the two sigmoids of its
    logit. Classes in no group are not compared.

    Args:
        groups: lists of class indices, each class in at most one list; None takes all classes as one group, which is
            `KD`.
        temperature: τ, above 0.

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only marks ignored samples): [...] or [..., C]. If the
        teacher has fewer classes, pad it with -inf, or cut both to its classes.

    Returns:
        A scalar, or [...] without reduction. A group that the teacher masks by -inf adds nothing. A class that the
        student alone masks has probability e^-100 instead of 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; groups that overlap, are empty or name a class that does not
            exist.

    Source:
        After Zhang, Gao, 2024, "Background Adaptation with Residual Modeling for Exemplar-Free Class-Incremental
        Semantic Segmentation", arXiv:2407.09838, implemented from a description and not compared with its code. The
        treatment of single classes is this library's.

    Example:
        >>> loss = GroupKD(groups=[[0, 1], [2, 3]])
        >>> logits = torch.tensor([[2.0, 0.0, 1.0, 0.0]])
        >>> loss(logits, logits + torch.tensor([5.0, 5.0, 0.0, 0.0])).item()  # alike within each group
        0.0
    """

    status = "experimental"
    evidence = "no golden values: made from a description; KD within each group in its tests"
    least_classes = 1

    groups: Sequence[Sequence[int]] | None = None
    temperature: Temperature = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups is None:
            return
        named = [index for group in self.groups for index in group]
        whole = all(isinstance(index, int) and index >= 0 for index in named)
        if not named or not all(len(group) for group in self.groups) or not whole or len(set(named)) < len(named):
            raise ValueError(
                f"{self._identifier}: groups={[list(group) for group in self.groups]} came; give lists of class "
                "indices, none of them empty, each class in one list at most."
            )
        for place, group in enumerate(self.groups):
            # On the loss's device: a list would be copied there at every step, which synchronises.
            self.register_buffer(f"group_{place}", torch.tensor(list(group)), persistent=False)

    def rows(self, given: DistillationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        classes = given.logits.shape[-1]
        if self.groups is None:
            return self.temperature**2 * _within(given.logits, given.teacher_logits, self.temperature)
        if (largest := max(map(max, self.groups))) >= classes:
            raise ValueError(
                f"{self._identifier}: groups name class {largest}, but {classes} classes came; number them from 0."
            )
        groups = [getattr(self, f"group_{place}") for place in range(len(self.groups))]
        value = sum(
            _within(given.logits[..., group], given.teacher_logits[..., group], self.temperature) for group in groups
        )
        return self.temperature**2 * torch.as_tensor(value) / len(groups)


def _within(
    student: Float[Tensor, "*rows part"], teacher: Float[Tensor, "*rows part"], temperature: float
) -> Float[Tensor, "*rows"]:
    # If the teacher masks the whole group there is nothing to compare.
    unknown = torch.isneginf(teacher).all(dim=-1, keepdim=True)
    student = student.masked_fill(unknown & (student < torch.inf), 0.0)
    teacher = teacher.masked_fill(unknown, 0.0)
    if student.shape[-1] > 1:
        log_t, log_s = (log_probabilities_within(logits, temperature) for logits in (teacher, student))
        return kl_divergence(log_t, log_s)
    # Softmax over one class is always 1, so a single class is compared by its sigmoid.
    t, s = (torch.cat([logit, -logit], dim=-1) / temperature for logit in (teacher, student))
    return kl_divergence(F.logsigmoid(t), F.logsigmoid(s))
