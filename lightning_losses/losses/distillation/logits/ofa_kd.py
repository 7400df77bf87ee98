"""One-for-all distillation: the label strengthens what the teacher says of the target class."""

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_number, check_temperature
from lightning_losses.numerics.divergences import weighted_sum
from lightning_losses.numerics.probabilities import log_probabilities, probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def ofa_kd_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """One-for-all distillation; see `OFAKD`."""
    check_number("ofa_kd", "gamma", gamma, least=0)
    check_temperature("ofa_kd", temperature)
    check_reduction("ofa_kd", reduction)
    rows = distillation_rows("ofa_kd", logits, teacher_logits, target, ignore_index)
    assert rows.target is not None
    log_s = log_probabilities(rows.logits, temperature)
    t = probabilities(rows.teacher_logits, temperature)
    label = rows.target if rows.target.is_floating_point() else F.one_hot(rows.target, t.shape[-1]).to(t.dtype)
    weight = (t + label).pow_(gamma).sub_(label)
    return reduce(-weighted_sum(weight, log_s), reduction, rows.kept)


class OFAKD(Loss):
    """One-for-all distillation: the label strengthens what the teacher says of the target class.

    ``-sum_k ((t_k + q_k)^γ - q_k) log s_k`` with ``s = softmax(logits / τ)``, ``t = softmax(teacher_logits / τ)`` and q
    the one-hot (or given) target. At γ = 1 it is cross-entropy to the teacher; a larger γ weighs the target class by up
    to ``(1 + t_y)^γ - 1`` and shrinks the others, for teachers whose architecture makes their other classes a poor
    guide.

    Args:
        gamma: γ, at least 0; the authors take 1 to 1.5.
        temperature: τ, above 0.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a gamma below 0; a temperature of 0 or less.

    Source:
        Hao, Guo, Han, Tang, Hu, Wang, Xu, 2023, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in
        Knowledge Distillation", arXiv:2310.19444, and its code Hao840/OFAKD, in which every class is raised to γ and
        there is no τ². There it is applied to the last logits and to those of branches from earlier stages, beside
        cross-entropy, all with weight 1.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> round(OFAKD(gamma=1.0)(logits, -logits, target).item(), 4)
        1.8885
    """

    status = "confirmed"
    evidence = "Hao840/OFAKD"

    def __init__(
        self,
        gamma: float = 1.5,
        temperature: float = 1.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_number("ofa_kd", "gamma", gamma, least=0)
        check_temperature("ofa_kd", temperature)
        check_reduction("ofa_kd", reduction)
        self.gamma = gamma
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
        return ofa_kd_loss(
            logits,
            teacher_logits,
            target,
            gamma=self.gamma,
            temperature=self.temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
