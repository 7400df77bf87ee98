"""Logsumexps of the rows of a matrix of similarities that is never held."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.similarities import tiles
from lightning_losses.similarities.derivatives import gradients_with_graph
from lightning_losses.similarities.powers import Softmaxes, softmaxes
from lightning_losses.similarities.tiles import LOG_2, Pairs, check_pairs, tiles_of


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
    if isinstance(scale, Tensor) and scale.requires_grad:
        raise ValueError("similarity_logsumexp: a scale that learns came; multiply the rows by it, and leave it out.")
    # In a form that a compiler traces of a changing number, too.
    if period is not None and period < 1:
        raise ValueError(f"similarity_logsumexp: period={period} came; give a whole number of at least 1, or None.")
    if columns is None and (column_identity is not None or column_kept is not None):
        raise ValueError(
            "similarity_logsumexp: column_identity or column_kept came without columns; give columns too, or the rows' "
            "alone, which count for both."
        )
    if columns is None:
        pairs = Pairs(False, period, row_identity, row_identity, row_kept, row_kept)
    else:
        pairs = Pairs(diagonal, period, row_identity, column_identity, row_kept, column_kept)
    check_pairs(rows, rows if columns is None else columns, pairs)
    if tiles.whole_matrix(rows, rows if columns is None else columns):
        return _of_matrix(rows, columns, pairs, scale)
    # A compiler takes no tensor twice.
    others = columns.view_as(columns) if columns is rows else columns
    lse: Tensor = _Logsumexp.apply(rows, others, pairs, scale)
    return lse


def _of_matrix(rows: Tensor, others: Tensor | None, pairs: Pairs, scale: float) -> Tensor:
    columns = rows if others is None else others
    scores = (rows * scale) @ columns.mT
    return pairs.leave_out(scores, slice(0, len(rows)), slice(0, len(columns))).logsumexp(dim=1)


class _Logsumexp(torch.autograd.Function):
    """Two walks over the tiles: one for the logsumexps, and one for the gradients, by the scores' probabilities."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, others: Tensor | None, pairs: Pairs, scale: float) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            walk = tiles_of(rows, others, pairs, scale)
            lse, _, totals, single = softmaxes(walk)
        # The powers or scores of a single tile are there for the second walk.
        ctx.save_for_backward(rows, others, lse, None if totals is None else totals[0], single)
        ctx.pairs, ctx.scale, ctx.share = pairs, scale, walk.share
        return lse * LOG_2

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, others, lse, total, single = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (rows, others) if tiles.small(rows, rows if others is None else others) else ()
            matrix = partial(_of_matrix, pairs=ctx.pairs, scale=ctx.scale)
            return (*gradients_with_graph(matrix, inputs, upstream[0]), None, None)
        with torch.autocast(rows.device.type, enabled=False):
            walk = tiles_of(rows, others, ctx.pairs, ctx.scale, ctx.share)
            totals = None if total is None else (total, total if walk.among else None)
            kept = Softmaxes(lse, lse if walk.among else None, totals, single)
            # The gradients of all processes will be averaged.
            by_row = upstream[0] * (ctx.scale * walk.share.processes)
            return (*walk.gradients(kept.slopes(walk, by_row, by_row), ctx.needs_input_grad[:2]), None, None)
