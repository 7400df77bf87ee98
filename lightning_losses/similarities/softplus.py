"""Sums of the softplus of similarities, over a matrix that is never held."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.probabilities import softplus
from lightning_losses.parallel.processes import total_of_all, work_share
from lightning_losses.similarities.tiles import Pairs, check_pairs, refuse_second_order, tiles_of


def similarity_softplus(
    rows: Float[Tensor, "rows width"], columns: Float[Tensor, "columns width"]
) -> Float[Tensor, " rows"]:
    """``sum_j log(1 + exp(rows_i · columns_j))``: the logistic loss of every pair, as one that should not match.

    Scores are computed in tiles, forward and backward. A bias is one more column of both.

    Args:
        rows: [N, D] in float32 or float64.
        columns: [M, D] in the same dtype.

    Returns:
        [N], differentiable once; at will for small matrices.

    Example:
        >>> similarity_softplus(torch.zeros(1, 2), torch.ones(3, 2))
        tensor([2.0794])
    """
    pairs = Pairs(rows, columns)
    check_pairs(pairs)
    if pairs.at_once:
        return softplus(pairs.scores()).sum(dim=1)
    return _Softplus.apply(rows, columns)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            tiles = tiles_of(Pairs(rows, columns), work_share())
            total = rows.new_zeros(len(rows))
            for i, j in tiles:
                scores, _ = tiles.scores(i, j)
                total[i] += softplus(scores.mul_(math.log(2))).sum(dim=1)
            total = total_of_all(total, tiles.share.group) if tiles.share.processes > 1 else total
        ctx.save_for_backward(rows, columns)
        ctx.share = tiles.share
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order()
        rows, columns = ctx.saved_tensors
        with torch.autocast(rows.device.type, enabled=False):
            tiles = tiles_of(Pairs(rows, columns), ctx.share)

            def slopes(i: slice, j: slice) -> Tensor:
                scores, _ = tiles.scores(i, j)
                return scores.mul_(math.log(2)).sigmoid_().mul_(upstream[0][i].unsqueeze(1))

            return tiles.gradients(slopes, ctx.needs_input_grad[:2])
