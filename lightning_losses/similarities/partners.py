"""The cross-entropy of picking each vector's partner out of another set, in both directions."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.numerics.probabilities import softplus
from lightning_losses.similarities.logsumexp import similarity_logsumexp, two_way_logsumexp


def partner_cross_entropy(
    rows: Float[Tensor, "batch width"],
    columns: Float[Tensor, "batch width"],
    *,
    target: Int[Tensor, " batch"] | None = None,
    kept: Bool[Tensor, " batch"] | None = None,
    negatives: Float[Tensor, "negatives width"] | None = None,
    both: bool = True,
) -> Float[Tensor, " batch"]:
    """``log sum_j exp(rows_i · columns_j) - rows_i · columns_i`` for each i; with `both`, plus that of the column.

    Args:
        rows: [B, D] in float32 or float64, over the temperature.
        columns: [B, D]; row i's partner is column i.
        target: [B]; others of the same number are no negatives; None: all others are.
        kept: [B]; what is not kept neither picks nor is picked, and has a value of 0; None keeps all.
        negatives: [Q, D], further columns, which are nobody's partners.
        both: whether columns pick rows too.

    Example:
        >>> partner_cross_entropy(torch.zeros(2, 3), torch.ones(2, 3), both=False)
        tensor([0.6931, 0.6931])
    """
    own = (rows * columns).sum(dim=-1)
    # log(exp(own) + the others) - own is the softplus of what the others have more: exact also where it is small.
    masks: dict[str, Any] = {"diagonal": False, "row_identity": target, "column_identity": target}
    masks |= {"row_kept": kept, "column_kept": kept}
    by_column = None
    if both:
        by_row, by_column = two_way_logsumexp(rows, columns, **masks)
    else:
        by_row = similarity_logsumexp(rows, columns, **masks)
    if negatives is not None:
        by_row = torch.logaddexp(by_row, similarity_logsumexp(rows, negatives))
    each = softplus(by_row - own)
    if by_column is not None:
        each = each + softplus(by_column - own)
    return each if kept is None else each.masked_fill(~kept, 0.0)
