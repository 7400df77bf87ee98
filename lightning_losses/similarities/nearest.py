"""The k-th largest similarity of each row: above it are its hardest negatives."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_count
from lightning_losses.parallel.processes import total_of_all, work_share
from lightning_losses.similarities.tiles import Pairs, check_pairs, tiles_of


@torch.no_grad()
def kth_largest_similarity(
    rows: Float[Tensor, "rows width"],
    columns: Float[Tensor, "columns width"],
    k: int,
    *,
    row_identity: Int[Tensor, " rows"] | None = None,
    column_identity: Int[Tensor, " columns"] | None = None,
    column_kept: Bool[Tensor, " columns"] | None = None,
    diagonal: bool = True,
) -> Float[Tensor, " rows"]:
    """The k-th largest score of each row over the pairs that count, without gradient.

    The scores of a tile's rows are held: 512 rows on a CPU, 8192 elsewhere.

    Args:
        rows: [N, D].
        columns: [M, D].
        k: at least 1.
        row_identity: [N] int64; a pair whose identities are equal does not count.
        column_identity: [M] int64.
        column_kept: [M] bool; pairs of a column that is not kept do not count.
        diagonal: whether the pairs (i, i) count.

    Returns:
        [N]; -inf for a row with fewer than k pairs that count.

    Example:
        >>> kth_largest_similarity(torch.ones(1, 1), torch.tensor([[3.0], [1.0], [2.0]]), k=2)
        tensor([2.])
    """
    check_count("kth_largest_similarity", "k", k)
    pairs = Pairs(rows, columns, False, diagonal, None, row_identity, column_identity, None, column_kept)
    check_pairs(pairs)
    if pairs.at_once:
        return _kth(pairs.scores(), k)
    tiles = tiles_of(pairs, work_share())
    floor = rows.new_zeros(len(rows))
    for number, i in enumerate(tiles.row_spans()):
        if number % tiles.share.processes == tiles.share.rank:
            scores = rows.new_empty(len(rows[i]), len(columns))
            # In the same tiles as a later walk, they are equal to the bit.
            for j in tiles.column_spans():
                scores[:, j] = tiles.scores(i, j)[0]
            floor[i] = _kth(scores, k)
    return total_of_all(floor, tiles.share.group) * math.log(2) if tiles.share.processes > 1 else floor * math.log(2)


def _kth(scores: Float[Tensor, "rows columns"], k: int) -> Float[Tensor, " rows"]:
    if scores.shape[1] < k:
        return scores.new_full((len(scores),), -torch.inf)
    return scores.topk(k, dim=1).values[:, -1]
