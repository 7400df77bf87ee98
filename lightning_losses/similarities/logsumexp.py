"""Logsumexps of the rows of a matrix of similarities that is never held."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.parallel.processes import Share, maximum_of_all, total_of_all
from lightning_losses.similarities import tiles
from lightning_losses.similarities.derivatives import gradients_with_graph
from lightning_losses.similarities.tiles import LOG_2, Pairs, check_pairs, share_of, tiles_of


def similarity_logsumexp(
    rows: Float[Tensor, "rows width"],
    columns: Float[Tensor, "columns width"] | None = None,
    *,
    scale: float = 1.0,
    row_identity: Int[Tensor, " rows"] | None = None,
    column_identity: Int[Tensor, " columns"] | None = None,
    row_kept: Bool[Tensor, " rows"] | None = None,
    column_kept: Bool[Tensor, " columns"] | None = None,
    diagonal: bool = True,
    period: int | None = None,
) -> Float[Tensor, " rows"]:
    """``log sum_j exp(scale rows_i · columns_j)`` over the pairs that count, without the matrix of all pairs.

    A softmax over a batch is this and the scores of its positives. Scores are computed in tiles, forward and backward,
    so that memory grows with the vectors alone. Where rows are compared with each other, half of the tiles are enough.
    Processes that compute the same (`same_on_all`) share the tiles.

    Args:
        rows: [N, D] in float32 or float64.
        columns: [M, D] in the same dtype; None compares the rows with each other, each with all but itself, and takes
            identities and `row_kept` for both.
        scale: 1 / τ gives a softmax the temperature τ.
        row_identity: [N] int64; a pair whose identities are equal does not count.
        column_identity: [M] int64.
        row_kept: [N] bool; pairs of a row that is not kept do not count.
        column_kept: [M] bool.
        diagonal: whether the pairs (i, i) of rows and columns count.
        period: or None: pairs whose places differ by a multiple of it do not count: the views of one sample, if the
            first views of all samples come before the second ones.

    Returns:
        [N], differentiable once; -inf for a row without a pair that counts, with a gradient of 0. It is
        differentiable at will for small matrices, and in transforms of `torch.func`, which hold the matrix.

    Example:
        >>> similarity_logsumexp(torch.zeros(1, 2), torch.ones(3, 2)).exp()
        tensor([3.])
    """
    if columns is None:
        columns, diagonal, column_identity, column_kept = rows, False, row_identity, row_kept
    pairs = Pairs(diagonal, period, row_identity, column_identity, row_kept, column_kept)
    check_pairs(rows, columns, pairs)
    if tiles.whole_matrix(rows, columns):
        return _of_matrix(rows, None if columns is rows else columns, pairs, scale)
    # A compiler takes no tensor twice.
    lse: Tensor = _Logsumexp.apply(rows, None if columns is rows else columns, pairs, scale)
    return lse


def _of_matrix(rows: Tensor, others: Tensor | None, pairs: Pairs, scale: float) -> Tensor:
    columns = rows if others is None else others
    scores = (rows * scale) @ columns.mT
    return pairs.leave_out(scores, slice(0, len(rows)), slice(0, len(columns))).logsumexp(dim=1)


class Accumulated:
    """Logsumexps, in units of log 2, to which tiles are added: their largest score, and the sum of powers over it."""

    def __init__(self, like: Tensor, length: int) -> None:
        self.most = like.new_full((length,), -torch.inf)
        self.sum = like.new_zeros(length)

    def add(self, scores: Float[Tensor, "n m"], of: slice, dim: int, memory: Tensor | None = None) -> None:
        """Add a tile's scores, summed along `dim`; in memory of their size, if it is given."""
        most = torch.maximum(self.most[of], scores.amax(dim=dim))
        # A row without any pair yet has powers of 0.
        shift = most.masked_fill(most == -torch.inf, 0.0)
        powers = torch.sub(scores, shift.unsqueeze(dim), out=memory).exp2_()
        self.sum[of] = self.sum[of] * (self.most[of] - shift).exp2() + powers.sum(dim=dim)
        self.most[of] = most

    def value(self, share: Share) -> Tensor:
        """The logsumexps over the tiles of all processes that share them."""
        most, total = self.most, self.sum
        if share.processes > 1:
            most = maximum_of_all(self.most, share.group)
            shift = most.masked_fill(most == -torch.inf, 0.0)
            total = total_of_all(total * (self.most - shift).exp2(), share.group)
        return most + total.log2()


class _Logsumexp(torch.autograd.Function):
    """Two walks over the tiles: one for the logsumexps, and one for the gradients, by the scores' probabilities."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, others: Tensor | None, pairs: Pairs, scale: float) -> Tensor:
        columns = rows if others is None else others
        with torch.autocast(rows.device.type, enabled=False):
            walk = tiles_of(rows, columns, pairs, scale, share_of(rows, columns))
            of_rows = Accumulated(rows, len(rows))
            for i, j in walk:
                scores, memory = walk.scores(i, j)
                of_rows.add(scores, i, 1, memory)
                if walk.mirrored(i, j):
                    of_rows.add(scores, j, 0, memory)
            lse = of_rows.value(walk.share)
        # The scores of a single tile are there for the second walk.
        ctx.save_for_backward(rows, others, lse, scores if walk.one else None)
        ctx.pairs, ctx.scale, ctx.share = pairs, scale, walk.share
        return lse * LOG_2

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, others, lse, single = ctx.saved_tensors
        columns = rows if others is None else others
        if torch.is_grad_enabled():
            inputs = (rows, others) if tiles.small(rows, columns) else ()
            matrix = partial(_of_matrix, pairs=ctx.pairs, scale=ctx.scale)
            return (*gradients_with_graph(matrix, inputs, upstream[0]), None, None)
        with torch.autocast(rows.device.type, enabled=False):
            walk = tiles_of(rows, columns, ctx.pairs, ctx.scale, ctx.share)
            # Of a row without pairs every probability is 0.
            lse, by_row = lse.masked_fill(lse == -torch.inf, torch.inf), upstream[0]

            def slopes(i: slice, j: slice) -> Tensor:
                scores, memory = walk.scores(i, j) if single is None else (single, torch.empty_like(single))
                if not walk.mirrored(i, j):
                    return torch.sub(scores, lse[i].unsqueeze(1), out=memory).exp2_().mul_(by_row[i].unsqueeze(1))
                second = torch.sub(scores, lse[j], out=memory).exp2_().mul_(by_row[j])
                return scores.sub_(lse[i].unsqueeze(1)).exp2_().mul_(by_row[i].unsqueeze(1)).add_(second)

            return (*walk.gradients(slopes, ctx.needs_input_grad[:2]), None, None)
