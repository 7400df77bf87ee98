"""The z-loss: keeps the softmax's normaliser near 1, so that logits do not drift."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import classification_rows


def z_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    *,
    coefficient: float = 1e-4,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """The squared logarithm of the softmax's normaliser; see `ZLoss`."""
    check_number("z_loss", "coefficient", coefficient, least=0)
    check_reduction("z_loss", reduction)
    rows = classification_rows("z_loss", logits, target, ignore_index)
    normaliser = torch.logsumexp(rows.logits, dim=-1)
    return reduce(coefficient * normaliser.square(), reduction, rows.kept)


class ZLoss(Loss):
    """The z-loss, added to cross-entropy against the drift of output logits.

    ``c (log Σ_k exp z_k)²``. Softmax does not change when all logits grow together; this does, which is its point.

    Args:
        coefficient: c, at least 0.
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits: [..., C]; target (optional, only tells the ignored samples): [...] or [..., C].

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; a negative coefficient.

    Source:
        Chowdhery et al., 2022, "PaLM: Scaling Language Modeling with Pathways", arXiv:2204.02311; as a mitigation:
        Wortsman et al., 2023, arXiv:2309.14322. For vocabularies, `linear_cross_entropy` has it without the logits.

    Example:
        >>> import math
        >>> round(ZLoss(coefficient=1.0)(torch.zeros(2, 4)).item() / math.log(4) ** 2, 4)
        1.0
    """

    status = "paper"
    evidence = "an independent evaluation of the formula"

    def __init__(self, coefficient: float = 1e-4, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_number("z_loss", "coefficient", coefficient, least=0)
        self.coefficient = coefficient
        check_reduction("z_loss", reduction)
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(
        self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return z_loss(
            logits,
            target,
            coefficient=self.coefficient,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
