"""Powers of 2 of scores and their sums: as they are where sums are of ordinary size, else over the largest.

Scores are in units of log 2, because exp2 is the fastest exponential.
"""

from collections.abc import Callable, Iterable
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.numerics.probabilities import known_everywhere
from lightning_losses.parallel.processes import Share, maximum_of_all, total_of_all
from lightning_losses.similarities import triton
from lightning_losses.similarities.tiles import Tiles

# A sum of powers within 2^±80 lost nothing that counts to underflow, and its reciprocal is an ordinary number too.
_ORDINARY = 80.0


def readable(like: Tensor) -> bool:
    """Whether sums can be looked at for free: on a CPU, outside of compiled code."""
    return like.device.type == "cpu" and not torch.compiler.is_compiling() and not triton.has_kernels(like)


def ordinary(lse: Float[Tensor, " rows"], kept: Bool[Tensor, " rows"] | None) -> bool:
    """Whether sums of powers are known to be of ordinary size, by their logarithms; but of rows that are not kept."""
    within = lse.abs() < _ORDINARY
    return known_everywhere(within if kept is None else within | ~kept)


class Softmaxes(NamedTuple):
    """The logsumexps of a matrix's rows and columns, by which the slopes of its tiles are made.

    Attributes:
        of_rows: in units of log 2.
        of_columns: None where they are not needed; those of the rows, where rows are compared with each other.
        totals: the sums of powers of rows and of columns, where powers need no shift.
        single: the tile that holds all, if one does: powers if they need no shift, else scores.
    """

    of_rows: Float[Tensor, " rows"]
    of_columns: Float[Tensor, " columns"] | None
    totals: tuple[Tensor, Tensor | None] | None
    single: Float[Tensor, "rows columns"] | None

    def among_more(self, lse: Float[Tensor, " rows"]) -> "Softmaxes":
        """The same, with logsumexps of rows over these and further pairs."""
        return self._replace(of_rows=lse, totals=None if self.totals is None else (lse.exp2(), self.totals[1]))

    def slopes(
        self, walk: Tiles, by_row: Float[Tensor, " rows"], by_column: Float[Tensor, " columns"] | None
    ) -> Callable[[slice, slice], Float[Tensor, "n m"]]:
        """What makes the gradient by a tile's scores, in reused memory, from the gradients by the logsumexps."""
        # Of a row without pairs every probability is 0.
        row, column = (None if lse is None else lse.masked_fill(lse == -torch.inf, torch.inf) for lse in self[:2])
        assert row is not None
        if self.totals is not None:
            of_row, of_column = (
                None if by is None or total is None else by / total.clamp(min=2.0**-_ORDINARY)
                for by, total in zip((by_row, by_column), self.totals, strict=True)
            )

        def slope(i: slice, j: slice) -> Tensor:
            if not walk.among or walk.mirrored(i, j):
                return part(i, j, column is not None and by_column is not None)
            # A pair's two scores on the diagonal are equal but for rounding; by its own logsumexp each is exact.
            of_rows = part(i, j, False)
            return of_rows + of_rows.mT

        def part(i: slice, j: slice, both: bool) -> Tensor:
            memory = walk.memory_of(i, j, 1)
            tile = walk.scores(i, j) if self.single is None else self.single
            if self.totals is not None:
                assert of_row is not None
                factor = of_row[i].unsqueeze(1)
                if both and of_column is not None:
                    factor = torch.add(factor, of_column[j], out=memory)
                return torch.mul(tile.exp2_() if self.single is None else tile, factor, out=memory)
            columns = (column[j], by_column[j]) if both and column is not None and by_column is not None else ()
            if triton.has_kernels(tile):
                tile = tile if self.single is None else memory.copy_(tile)
                return triton.slopes(tile, row[i], by_row[i], *columns)
            of_rows = torch.sub(tile, row[i].unsqueeze(1), out=memory).exp2_().mul_(by_row[i].unsqueeze(1))
            if not columns:
                return of_rows
            of_columns = torch.sub(tile, columns[0], out=tile if self.single is None else None)
            return of_rows.add_(of_columns.exp2_().mul_(columns[1]))

        return slope


def softmaxes(walk: Tiles, columns: bool = False) -> Softmaxes:
    """The logsumexps of all rows, and with `columns` those of all columns, over the tiles of all processes."""
    kept = (walk.pairs.row_kept, walk.pairs.column_kept)
    if readable(walk.rows):
        totals, powers = _totals(walk, columns)
        if walk.share.processes > 1:
            totals = [None if total is None else total_of_all(total, walk.share.group) for total in totals]
        lse = [None if total is None else total.log2() for total in totals]
        if all(each is None or ordinary(each, of) for each, of in zip(lse, kept, strict=True)):
            return _softmaxes(walk, lse, totals, powers)
    sums, scores = _shifted_totals(walk, columns)
    return _softmaxes(walk, [None if each is None else each.value(walk.share) for each in sums], None, scores)


def _softmaxes(
    walk: Tiles, lse: list[Tensor | None], totals: list[Tensor | None] | None, last: Tensor | None
) -> Softmaxes:
    def both(of: list[Tensor | None]) -> tuple[Tensor, Tensor | None]:
        of_rows, of_columns = of
        assert of_rows is not None
        return of_rows, of_rows if walk.among else of_columns

    return Softmaxes(*both(lse), None if totals is None else both(totals), last if walk.one else None)


def _totals(walk: Tiles, columns: bool) -> tuple[list[Tensor | None], Tensor | None]:
    """The sums of powers of all rows and columns, and the last tile's powers."""
    of_rows = walk.rows.new_zeros(len(walk.rows))
    of_columns = of_rows if walk.among else walk.rows.new_zeros(len(walk.columns)) if columns else None
    powers = None
    for i, j in walk:
        powers = walk.scores(i, j).exp2_()
        of_rows[i] += powers.sum(dim=1)
        if of_columns is not None and (walk.mirrored(i, j) or not walk.among):
            of_columns[j] += powers.sum(dim=0)
    return [of_rows, None if walk.among else of_columns], powers


def _shifted_totals(walk: Tiles, columns: bool) -> tuple[list["_Accumulated | None"], Tensor | None]:
    """The same sums over the largest, and the last tile's scores."""
    of_rows = _Accumulated(walk.rows, len(walk.rows))
    of_columns = of_rows if walk.among else _Accumulated(walk.rows, len(walk.columns)) if columns else None
    scores = None
    for i, j in walk:
        scores, memory = walk.scores(i, j), walk.memory_of(i, j, 1)
        of_rows.add(scores, i, 1, memory)
        if of_columns is not None and (walk.mirrored(i, j) or not walk.among):
            of_columns.add(scores, j, 0, memory)
    return [of_rows, None if walk.among else of_columns], scores


class _Accumulated:
    """Logsumexps to which tiles are added: their largest score, and the sum of powers over it."""

    def __init__(self, like: Tensor, length: int) -> None:
        self.most = like.new_full((length,), -torch.inf)
        self.sum = like.new_zeros(length)

    def add(self, scores: Float[Tensor, "n m"], of: slice, dim: int, memory: Float[Tensor, "n m"]) -> None:
        """Add a tile's scores, summed along `dim`."""
        by_kernel = triton.has_kernels(scores)
        largest = triton.logsumexp(scores, dim) if by_kernel else scores.amax(dim=dim)
        most = torch.maximum(self.most[of], largest)
        # A row without any pair yet has powers of 0.
        shift = most.masked_fill(most == -torch.inf, 0.0)
        if by_kernel:
            total = (largest - shift).exp2()
        else:
            total = torch.sub(scores, shift.unsqueeze(dim), out=memory).exp2_().sum(dim=dim)
        self.sum[of] = self.sum[of] * (self.most[of] - shift).exp2() + total
        self.most[of] = most

    def value(self, share: Share) -> Tensor:
        """The logsumexps over the tiles of all processes that share them."""
        most, total = self.most, self.sum
        if share.processes > 1:
            most = maximum_of_all(self.most, share.group)
            shift = most.masked_fill(most == -torch.inf, 0.0)
            total = total_of_all(total * (self.most - shift).exp2(), share.group)
        return most + total.log2()


def block_softmax(
    scored: Callable[[], Iterable[Float[Tensor, "n m"]]], like: Tensor, kept: Bool[Tensor, " n"] | None
) -> tuple[list[Float[Tensor, "n m"]], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The powers of a block of rows, their logsumexps, and what the powers are divided by to add up to 1.

    Args:
        scored: computes the scores, tile by tile, which are overwritten.
        like: a tensor of their kind.
        kept: rows that are not kept have no scores but -inf.
    """
    if readable(like):
        tiles, sums = [], []
        for tile in scored():
            tiles.append(tile.exp2_())
            sums.append(tile.sum(dim=1))
        total = sum(sums[1:], start=sums[0])
        lse = total.log2()
        if ordinary(lse, kept):
            return tiles, lse, total if kept is None else total.clamp_(min=2.0**-_ORDINARY)
    tiles = list(scored())
    if triton.has_kernels(like):
        if len(tiles) == 1:
            lse = triton.softmax(tiles[0])
        else:
            lse = reduce(torch.logaddexp2, [triton.logsumexp(tile, 1) for tile in tiles])
            tiles = [triton.slopes(tile, lse, torch.ones_like(lse)) for tile in tiles]
        return tiles, lse, torch.ones_like(lse)
    # The powers of a row without pairs are 0.
    most = torch.stack([tile.amax(dim=1) for tile in tiles]).amax(dim=0).clamp_(min=torch.finfo(like.dtype).min)
    total = torch.stack([tile.sub_(most.unsqueeze(1)).exp2_().sum(dim=1) for tile in tiles]).sum(dim=0)
    return tiles, most + total.log2(), total.clamp(min=1.0)
