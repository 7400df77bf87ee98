"""The logistic loss of all pairs of two sets: partners match, and no others do."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.products import product
from lightning_losses.parallel.processes import total_of_all
from lightning_losses.similarities.derivatives import value_by_walk
from lightning_losses.similarities.tiles import Pairs, block_spans, check_pairs, check_partners, share_of


def partner_logistic(
    rows: Float[Tensor, "batch width"],
    columns: Float[Tensor, "batch width"],
    *,
    scale: float | Float[Tensor, ""] = 1.0,
    bias: float | Float[Tensor, ""] = 0.0,
) -> Float[Tensor, ""]:
    """``(1/B) sum_ij log(1 + exp(-z_ij (scale rows_i · columns_j + bias)))``, z 1 for partners and -1 for other pairs.

    The scores of a block of rows are held at once, and computed once: gradients are made beside the value.

    Args:
        rows: [B, D] in float32 or float64, B at least 1.
        columns: [B, D]; row i's partner is column i.
        scale: a tensor gets a gradient.
        bias: a tensor gets a gradient.

    Returns:
        A scalar, differentiable once; at will for small matrices.

    Example:
        >>> partner_logistic(torch.zeros(3, 2), torch.ones(3, 2))  # 3 log 2
        tensor(2.0794)
    """
    check_pairs(rows, columns, Pairs())
    check_partners(rows, columns)
    return value_by_walk(_walk, _matrix, rows, columns, scale, bias)


def _matrix(rows: Tensor, columns: Tensor, scale: float | Tensor, bias: float | Tensor) -> Tensor:
    scores = (rows * scale) @ columns.mT + bias
    partners = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return softplus(torch.where(partners, -scores, scores)).sum() / len(rows)


def _walk(
    rows: Tensor, columns: Tensor, scale: float | Tensor, bias: float | Tensor, wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    share = share_of(rows, columns)
    by_rows = torch.zeros_like(rows) if wanted[0] else None
    by_columns = torch.zeros_like(columns) if wanted[1] else None
    value, by_scale, by_bias = (rows.new_zeros(()) for _ in range(3))
    for i in block_spans(len(rows), len(columns), rows.device)[share.rank :: share.processes]:
        scores = product(rows[i] * scale, columns).add_(bias)
        scores.diagonal(i.start).neg_()
        value += softplus(scores).sum(dim=1).sum()
        if not any(wanted):
            continue
        slope = scores.sigmoid_()
        slope.diagonal(i.start).neg_()
        by_bias += slope.sum(dim=1).sum()
        if wanted[0] or wanted[2]:
            of_block = product(slope, columns.t())
            by_scale += (rows[i] * of_block).sum()
            if by_rows is not None:
                by_rows[i] = of_block * scale
        if by_columns is not None:
            by_columns.addmm_(slope.mT, rows[i] * scale)
    if share.processes > 1:
        value = total_of_all(value, share.group)
    gradients = (by_rows, by_columns, by_scale if wanted[2] else None, by_bias if wanted[3] else None)
    # The gradients of all processes will be averaged.
    factor = share.processes / len(rows)
    return value / len(rows), [None if each is None else each.mul_(factor) for each in gradients]
