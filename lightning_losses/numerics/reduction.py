"""Values per row to one value: the mean over kept rows, their sum, or each."""

from typing import Literal, get_args

from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.numerics.checks import check_choice

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS = get_args(Reduction)


def reduce(
    value: Float[Tensor, "*rows"], reduction: Reduction = "mean", kept: Bool[Tensor, "*rows"] | None = None
) -> Float[Tensor, "..."]:
    """Reduce values per row: the mean over kept rows, their sum, or each (0 where ignored).

    With no row kept the mean is 0, with zero gradients.

    Raises:
        ValueError: a reduction other than "mean", "sum" or "none".
    """
    check_choice("reduce", "reduction", reduction, REDUCTIONS)
    if kept is not None:
        value = value.masked_fill(~kept, 0.0)
    if reduction == "none":
        return value
    if reduction == "sum":
        return value.sum()
    count = max(value.numel(), 1) if kept is None else kept.sum().clamp(min=1)
    return value.sum() / count
