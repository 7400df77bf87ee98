"""Knowledge distillation: the student matches the teacher's softened probabilities."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_temperature
from lightning_losses.numerics.divergences import kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def kd_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    temperature: float = 4.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Temperature-scaled KL divergence from teacher to student; see `KD`."""
    check_temperature("kd", temperature)
    check_reduction("kd", reduction)
    rows = distillation_rows("kd", logits, teacher_logits, target, ignore_index)
    student = log_probabilities(rows.logits, temperature)
    teacher = log_probabilities(rows.teacher_logits, temperature)
    return reduce(temperature**2 * kl_divergence(teacher, student), reduction, rows.kept)


class KD(Loss):
    """Knowledge distillation: the student matches the teacher's softened probabilities.

    ``τ² KL(t || s)`` with ``s = softmax(logits / τ)`` and ``t = softmax(teacher_logits / τ)``. The factor τ² keeps
    the gradient's size independent of the temperature.

    Args:
        temperature: τ, above 0. At 1 and a one-hot teacher this is cross-entropy.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a temperature of 0 or less.

    Source:
        Hinton, Vinyals, Dean, 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531. Many codes
        average over classes too (``kl_div(reduction="mean")``), which makes the loss C times smaller; this one
        averages over samples.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(KD(temperature=1.0)(logits, -logits).item(), 4)
        1.5232
    """

    status = "paper"
    evidence = "megvii-research/mdistiller and yoshitomo-matsubara/torchdistill, which are not its authors'"

    def __init__(self, temperature: float = 4.0, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_temperature("kd", temperature)
        check_reduction("kd", reduction)
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
        return kd_loss(
            logits,
            teacher_logits,
            target,
            temperature=self.temperature,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
