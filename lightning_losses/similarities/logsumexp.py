"""Logsumexps of rows, and of columns, of a matrix of similarities that is never held."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.parallel.processes import Share, maximum_of_all, total_of_all, work_share
from lightning_losses.similarities.tiles import Pairs, check_pairs, refuse_second_order, tiles_of


def similarity_logsumexp(
    rows: Float[Tensor, "rows width"],
    columns: Float[Tensor, "columns width"] | None = None,
    *,
    row_identity: Int[Tensor, " rows"] | None = None,
    column_identity: Int[Tensor, " columns"] | None = None,
    row_kept: Bool[Tensor, " rows"] | None = None,
    column_kept: Bool[Tensor, " columns"] | None = None,
    floor: Float[Tensor, " rows"] | None = None,
    diagonal: bool = True,
    period: int | None = None,
) -> Float[Tensor, " rows"]:
    """``log sum_j exp(rows_i · columns_j)`` over the pairs that count, without the matrix of all pairs.

    A softmax over a batch is this and the scores of its positives: ``rows / τ`` gives it the temperature τ. Scores are
    computed in tiles, forward and backward, so that memory grows with the vectors alone. Where rows are compared with
    each other, half of the tiles are enough. Processes that compute the same (`same_on_all`) share the tiles.

    Args:
        rows: [N, D] in float32 or float64.
        columns: [M, D] in the same dtype; None compares the rows with each other, each with all but itself, and takes
            identities and `row_kept` for both.
        row_identity: [N] int64; a pair whose identities are equal does not count.
        column_identity: [M] int64.
        row_kept: [N] bool; pairs of a row that is not kept do not count.
        column_kept: [M] bool.
        floor: [N]; pairs with a lower score do not count. `kth_largest_similarity` gives that of the k hardest.
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
    pairs = Pairs(
        rows, columns, columns is rows, diagonal, period, row_identity, column_identity, row_kept, column_kept, floor
    )
    check_pairs(pairs)
    if pairs.at_once:
        return torch.logsumexp(pairs.scores(), dim=1)
    lse: Tensor = _Logsumexp.apply(pairs.rows, pairs.columns, pairs, False)[0]
    return lse


def two_way_logsumexp(
    rows: Float[Tensor, "rows width"],
    columns: Float[Tensor, "columns width"],
    *,
    row_identity: Int[Tensor, " rows"] | None = None,
    column_identity: Int[Tensor, " columns"] | None = None,
    row_kept: Bool[Tensor, " rows"] | None = None,
    column_kept: Bool[Tensor, " columns"] | None = None,
    diagonal: bool = True,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " columns"]]:
    """As `similarity_logsumexp`, and the same of each column over the rows, of which every score is computed once.

    Example:
        >>> by_row, by_column = two_way_logsumexp(torch.zeros(2, 2), torch.ones(3, 2))
        >>> by_row.exp(), by_column.exp()
        (tensor([3., 3.]), tensor([2., 2., 2.]))
    """
    pairs = Pairs(rows, columns, False, diagonal, None, row_identity, column_identity, row_kept, column_kept)
    check_pairs(pairs)
    if pairs.at_once:
        scores = pairs.scores()
        return torch.logsumexp(scores, dim=1), torch.logsumexp(scores, dim=0)
    by_row, by_column = _Logsumexp.apply(pairs.rows, pairs.columns, pairs, True)
    return by_row, by_column


class _Accumulated:
    """Logsumexps, in units of log 2, to which tiles are added: their largest score, and the sum of powers over it."""

    def __init__(self, like: Tensor, length: int) -> None:
        self.most = like.new_full((length,), -torch.inf)
        self.sum = like.new_zeros(length)

    def add(self, scores: Float[Tensor, "n m"], of: slice, dim: int, memory: Float[Tensor, "n m"]) -> None:
        """Add a tile's scores, summed along `dim`."""
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
    def forward(ctx: Any, rows: Tensor, columns: Tensor, pairs: Pairs, by_column: bool) -> tuple[Tensor, Tensor]:
        with torch.autocast(rows.device.type, enabled=False):
            tiles = tiles_of(pairs, work_share())
            of_rows = _Accumulated(rows, len(rows))
            of_columns = of_rows if pairs.symmetric else _Accumulated(rows, len(columns))
            for i, j in tiles:
                scores, memory = tiles.scores(i, j)
                of_rows.add(scores, i, 1, memory)
                if by_column or tiles.mirrored(i, j):
                    of_columns.add(scores, j, 0, memory)
            of_row = of_rows.value(tiles.share)
            of_column = of_columns.value(tiles.share) if by_column else of_row.new_empty(0)
        ctx.save_for_backward(rows, columns, of_row, of_column)
        # What says which pairs count stays; the vectors go with the graph.
        none = rows.new_empty(0, 0)
        ctx.pairs, ctx.by_column, ctx.share = pairs._replace(rows=none, columns=none), by_column, tiles.share
        return of_row * math.log(2), of_column * math.log(2)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order()
        rows, columns, of_row, of_column = ctx.saved_tensors
        with torch.autocast(rows.device.type, enabled=False):
            tiles = tiles_of(ctx.pairs._replace(rows=rows, columns=columns), ctx.share)
            # Of a row without pairs every probability is 0.
            of_row, of_column = (lse.masked_fill(lse == -torch.inf, torch.inf) for lse in (of_row, of_column))
            by_row, by_column = upstream
            if not ctx.by_column:
                of_column, by_column = of_row, by_row

            def slopes(i: slice, j: slice) -> Tensor:
                scores, memory = tiles.scores(i, j)
                twice = ctx.by_column or tiles.mirrored(i, j)
                second = torch.sub(scores, of_column[j], out=memory).exp2_().mul_(by_column[j]) if twice else None
                first = scores.sub_(of_row[i].unsqueeze(1)).exp2_().mul_(by_row[i].unsqueeze(1))
                return first if second is None else first.add_(second)

            return (*tiles.gradients(slopes, ctx.needs_input_grad[:2]), None, None)
