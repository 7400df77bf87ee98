"""DeiT's distillation: the class token learns the label, the distillation token the teacher."""

from typing import Literal

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_choice, check_number, check_temperature
from lightning_losses.numerics.divergences import cross_entropy, kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows

Kind = Literal["hard", "soft"]
Normalizer = Literal["classes", "batch"]


def deit_distill_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    distillation_logits: Float[Tensor, "*rows classes"] | None = None,
    *,
    alpha: float = 0.5,
    kind: Kind = "hard",
    temperature: float = 1.0,
    normalizer: Normalizer = "classes",
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """DeiT's distillation; see `DeiTDistill`."""
    check_number("deit_distill", "alpha", alpha, least=0, most=1)
    check_choice("deit_distill", "kind", kind, Kind)
    check_temperature("deit_distill", temperature)
    check_choice("deit_distill", "normalizer", normalizer, Normalizer)
    check_reduction("deit_distill", reduction)
    rows = distillation_rows("deit_distill", logits, teacher_logits, target, ignore_index)
    assert rows.target is not None
    second = logits if distillation_logits is None else distillation_logits
    others = distillation_rows("deit_distill", second, teacher_logits, target, ignore_index)
    label = cross_entropy(log_probabilities(rows.logits), rows.target)
    if kind == "hard":
        taught = cross_entropy(log_probabilities(others.logits), others.teacher_logits.argmax(dim=-1))
    else:
        log_t, log_s = (log_probabilities(x, temperature) for x in (others.teacher_logits, others.logits))
        taught = temperature**2 * kl_divergence(log_t, log_s)
        taught = taught / logits.shape[-1] if normalizer == "classes" else taught
    return reduce((1 - alpha) * label + alpha * taught, reduction, rows.kept)


class DeiTDistill(Loss):
    """DeiT's distillation: the class token learns the label, the distillation token the teacher.

    ``(1 - α) CE(logits, y) + α D(distillation_logits, teacher_logits)`` where D is cross-entropy to the teacher's
    largest class ("hard"), or ``τ² KL(t || s)`` at temperature τ ("soft").

    Args:
        alpha: α, in [0, 1].
        kind: what the distillation token learns from the teacher.
        temperature: τ of the soft kind, above 0.
        normalizer: "classes" divides the soft kind by C, as the authors' code does; "batch" does not, which makes it
            `KD`.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C]; target: [...] class indices or [..., C] probabilities; distillation_logits
        (optional): [..., C], the distillation token's; `logits` by default.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; an alpha outside [0, 1]; an unknown kind or normalizer; a
            temperature of 0 or less.

    Source:
        Touvron, Cord, Douze, Massa, Sablayrolles, Jégou, 2021, "Training data-efficient image transformers &
        distillation through attention", arXiv:2012.12877, and its code facebookresearch/deit. It holds the label's term
        already: no cross-entropy beside it.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> round(DeiTDistill()(logits, -logits, target).item(), 4)  # half the label's, half the teacher's
        1.1269
    """

    status = "paper"
    evidence = "AlphaXia/TLEG, which is not its authors'"

    def __init__(
        self,
        alpha: float = 0.5,
        kind: Kind = "hard",
        temperature: float = 1.0,
        normalizer: Normalizer = "classes",
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_number("deit_distill", "alpha", alpha, least=0, most=1)
        check_choice("deit_distill", "kind", kind, Kind)
        check_temperature("deit_distill", temperature)
        check_choice("deit_distill", "normalizer", normalizer, Normalizer)
        check_reduction("deit_distill", reduction)
        self.alpha = alpha
        self.kind: Kind = kind
        self.temperature = temperature
        self.normalizer: Normalizer = normalizer
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
        distillation_logits: Float[Tensor, "*rows classes"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return deit_distill_loss(
            logits,
            teacher_logits,
            target,
            distillation_logits,
            alpha=self.alpha,
            kind=self.kind,
            temperature=self.temperature,
            normalizer=self.normalizer,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
