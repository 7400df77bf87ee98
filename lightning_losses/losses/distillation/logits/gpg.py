"""Group progressive guidance: each sub-network learns from the next larger one and from the label."""

from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.divergences import cross_entropy, kl_divergence
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import distillation_rows


def gpg_loss(
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    alpha: float = 0.5,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Group progressive guidance; see `GPG`."""
    check_number("gpg", "alpha", alpha, least=0, most=1)
    check_reduction("gpg", reduction)
    rows = distillation_rows("gpg", logits, teacher_logits, target, ignore_index)
    assert rows.target is not None
    taught = kl_divergence(log_probabilities(rows.teacher_logits), log_probabilities(rows.logits))
    label = cross_entropy(log_probabilities(rows.logits), rows.target)
    return reduce(alpha * taught + (1 - alpha) * label, reduction, rows.kept)


class GPG(Loss):
    """Group progressive guidance: each sub-network learns from the next larger one and from the label.

    ``α KL(t || s) + (1 - α) CE(logits, y)`` at temperature 1: one link of a chain of sub-networks that share weights.
    The largest learns from the label alone, each next one from the one before, and gradients of all links add up to one
    step.

    Args:
        alpha: α, in [0, 1].
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits, teacher_logits: [..., C], the latter of the next larger sub-network; target: [...] class indices or
        [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; an alpha outside [0, 1].

    Source:
        Xu, Han, Tian, Yang, Zhang, 2023, "EQ-Net: Elastic Quantization Neural Networks", arXiv:2308.07650, and its code
        xuke225/EQ-Net.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> round(GPG()(logits, -logits, target).item(), 4)  # (1.5232 + 0.1269) / 2
        0.8251
    """

    status = "confirmed"
    evidence = "xuke225/EQ-Net"

    def __init__(
        self,
        alpha: float = 0.5,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_number("gpg", "alpha", alpha, least=0, most=1)
        check_reduction("gpg", reduction)
        self.alpha = alpha
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        teacher_logits: Float[Tensor, "*rows classes"],
        target: Shaped[Tensor, "..."],
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return gpg_loss(
            logits,
            teacher_logits,
            target,
            alpha=self.alpha,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
