"""The Brier score as a loss: squared distance of the probabilities from the target."""

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce
from lightning_losses.numerics.rows import classification_rows


def brier_loss(
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."],
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Brier score; see `Brier`."""
    check_reduction("brier", reduction)
    rows = classification_rows("brier", logits, target, ignore_index)
    assert rows.target is not None
    soft = rows.target if rows.target.is_floating_point() else F.one_hot(rows.target, rows.logits.shape[-1])
    value = (log_probabilities(rows.logits).exp() - soft).square().sum(dim=-1)
    return reduce(value, reduction, rows.kept)


class Brier(Loss):
    """The Brier score as a loss: squared distance of the probabilities from the target.

    ``sum_c (p_c - q_c)²`` with p the softmax and q the one-hot (or given) target; in [0, 2]. It is a proper score, and
    bounded: a confident mistake costs at most 2.

    Args:
        ignore_index: samples with this target count for nothing.
        reduction: "mean" over the kept samples, "sum", or "none".

    Shapes:
        logits: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Brier, 1950, "Verification of Forecasts Expressed in Terms of Probability".

    Example:
        >>> import torch
        >>> Brier()(torch.zeros(1, 2), torch.tensor([0])).item()
        0.5
    """

    status = "paper"
    evidence = "no golden values; the Brier score of the metrics in its tests"

    def __init__(self, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction("brier", reduction)
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(self, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return brier_loss(logits, target, ignore_index=self.ignore_index, reduction=self.reduction)
