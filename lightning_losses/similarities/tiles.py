"""All pairs of rows and columns in tiles: their scores, which of them count, and what is gathered from them."""

import math
from collections.abc import Callable, Iterator
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.numerics.derivatives import in_transform
from lightning_losses.numerics.products import product, spans
from lightning_losses.parallel.processes import Share

# Up to this many pairs are scored at once, by operations that autograd differentiates.
DENSE = 1 << 19
# Scores are in units of log 2, because exp2 is the fastest exponential; rows and columns have a root of it each.
_UNIT = math.sqrt(math.log(2))


def _width(device: torch.device) -> int:
    """Scores of a tile stay in the cache of a CPU; a GPU wants large products."""
    return 512 if device.type == "cpu" else 8192


class Pairs(NamedTuple):
    """Rows, columns, and which pairs of them count.

    Attributes:
        rows: [N, D].
        columns: [M, D]; the rows themselves if they are compared with each other.
        among: whether the columns are the rows.
        diagonal: whether the pairs (i, i) count.
        period: or None: pairs whose places differ by a multiple of it, such as views of one sample, do not count.
        row_identity: [N] int64, or None: a pair of equal identities does not count.
        column_identity: [M] int64, or None.
        row_kept: [N] bool, or None: pairs of a row that is not kept do not count.
        column_kept: [M] bool, or None.
        floor: [N], or None: pairs with a lower score than their row's do not count.
    """

    rows: Float[Tensor, "rows width"]
    columns: Float[Tensor, "columns width"]
    among: bool = False
    diagonal: bool = True
    period: int | None = None
    row_identity: Int[Tensor, " rows"] | None = None
    column_identity: Int[Tensor, " columns"] | None = None
    row_kept: Bool[Tensor, " rows"] | None = None
    column_kept: Bool[Tensor, " columns"] | None = None
    floor: Float[Tensor, " rows"] | None = None

    def left_out(self, scores: Float[Tensor, "n m"], rows: slice, columns: slice) -> Bool[Tensor, "n m"] | None:
        """Which pairs of a tile do not count; None if all do."""
        masks = []
        if not self.diagonal and rows.start < columns.stop and columns.start < rows.stop:
            places = torch.arange(max(len(self.rows), len(self.columns)), device=scores.device)
            masks.append(places[rows].unsqueeze(1) == places[columns])
        if self.period is not None and _has_multiple(
            columns.start - rows.stop + 1, columns.stop - rows.start, self.period
        ):
            places = torch.arange(max(len(self.rows), len(self.columns)), device=scores.device)
            masks.append((places[columns] - places[rows].unsqueeze(1)) % self.period == 0)
        if self.row_identity is not None and self.column_identity is not None:
            masks.append(self.row_identity[rows].unsqueeze(1) == self.column_identity[columns])
        if self.row_kept is not None:
            masks.append(~self.row_kept[rows].unsqueeze(1))
        if self.column_kept is not None:
            masks.append(~self.column_kept[columns].unsqueeze(0))
        if self.floor is not None:
            masks.append(scores < self.floor[rows].unsqueeze(1))
        return reduce(torch.logical_or, masks) if masks else None

    @property
    def symmetric(self) -> bool:
        """Whether the pair (j, i) has what (i, j) has, so that half of the tiles tell all."""
        return self.among and self.floor is None

    @property
    def at_once(self) -> bool:
        """Whether all scores are computed at once: there are few, or a transform takes autograd's operations alone."""
        return len(self.rows) * len(self.columns) <= DENSE or in_transform()

    def scores(self) -> Float[Tensor, "rows columns"]:
        """The scores of all pairs, differentiable; -inf where a pair does not count."""
        scores = self.rows @ self.columns.mT
        mask = self.left_out(scores, slice(0, len(self.rows)), slice(0, len(self.columns)))
        return scores if mask is None else scores.masked_fill(mask, -torch.inf)


def _has_multiple(start: int, stop: int, of: int) -> bool:
    """Whether a multiple of a number is in ``range(start, stop)``."""
    return (stop - 1) // of * of >= start


class Tiles(NamedTuple):
    """Pairs in tiles whose scores are in units of log 2.

    Attributes:
        pairs: of rows and columns that are over the root of log 2, and a floor in these units.
        share: which tiles are this process's.
        memory: for two tiles.
    """

    pairs: Pairs
    share: Share
    memory: Float[Tensor, " entries"]

    def __iter__(self) -> Iterator[tuple[slice, slice]]:  # type: ignore[override]
        """The tiles of this process's share; of a symmetric matrix those on and above the diagonal."""
        every = (
            (i, j)
            for i in self.row_spans()
            for j in self.column_spans()
            if not self.pairs.symmetric or j.start >= i.start
        )
        return (tile for number, tile in enumerate(every) if number % self.share.processes == self.share.rank)

    def row_spans(self) -> Iterator[slice]:
        """The rows of the tiles, from above."""
        return spans(len(self.pairs.rows), _width(self.memory.device))

    def column_spans(self) -> Iterator[slice]:
        """The columns of the tiles, from the left."""
        return spans(len(self.pairs.columns), _width(self.memory.device))

    def mirrored(self, rows: slice, columns: slice) -> bool:
        """Whether a tile stands for that on the other side of the diagonal too."""
        return self.pairs.symmetric and rows.start != columns.start

    def scores(self, rows: slice, columns: slice) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
        """The scores of a tile, -inf where a pair does not count, and memory of their size."""
        a, b = self.pairs.rows[rows], self.pairs.columns[columns]
        first, second = (half[: len(a) * len(b)].view(len(a), len(b)) for half in self.memory.chunk(2))
        scores = product(a, b, out=first)
        mask = self.pairs.left_out(scores, rows, columns)
        return scores if mask is None else scores.masked_fill_(mask, -torch.inf), second

    def gradients(
        self, slopes: Callable[[slice, slice], Float[Tensor, "n m"]], wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients by rows and columns; where the columns are the rows, the rows have all of it.

        Args:
            slopes: the gradient by a tile's scores.
            wanted: whether rows and columns need one.
        """
        rows, columns, among = self.pairs.rows, self.pairs.columns, self.pairs.among
        by_rows = torch.zeros_like(rows) if wanted[0] else None
        by_columns = by_rows if among else torch.zeros_like(columns) if wanted[1] else None
        # The gradients of all processes will be averaged.
        factor = _UNIT * self.share.processes
        for i, j in self:
            slope = slopes(i, j)
            if by_rows is not None:
                by_rows[i].addmm_(slope, columns[j], alpha=factor)
            if by_columns is not None:
                by_columns[j].addmm_(slope.mT, rows[i], alpha=factor)
        return by_rows, None if among else by_columns


def tiles_of(pairs: Pairs, share: Share) -> Tiles:
    """The tiles of pairs; a score that equals its row's floor up to rounding counts."""
    rows = pairs.rows / _UNIT
    columns = rows if pairs.among else pairs.columns / _UNIT
    floor = pairs.floor
    if floor is not None:
        floor = floor / _UNIT**2
        floor = floor - 4 * torch.finfo(floor.dtype).eps * floor.abs()
    width = _width(rows.device)
    memory = rows.new_empty(2 * min(width, len(rows)) * min(width, len(columns)))
    return Tiles(pairs._replace(rows=rows, columns=columns, floor=floor), share, memory)


def check_pairs(pairs: Pairs) -> None:
    """Raise ``ValueError`` for rows and columns of different widths or dtypes, or one identity without the other."""
    rows, columns = pairs.rows, pairs.columns
    if rows.ndim != 2 or columns.ndim != 2 or rows.shape[1] != columns.shape[1] or rows.dtype != columns.dtype:
        raise ValueError(
            f"similarities: rows of shape {list(rows.shape)} and dtype {rows.dtype} came with columns of shape "
            f"{list(columns.shape)} and dtype {columns.dtype}; give [N, D] and [M, D] of one dtype."
        )
    if rows.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"similarities: rows of dtype {rows.dtype} came; give float32 or float64.")
    if (pairs.row_identity is None) != (pairs.column_identity is None):
        raise ValueError("similarities: identities of rows or of columns came alone; give both, or none.")


def refuse_second_order() -> None:
    """Raise ``RuntimeError`` in a backward pass with ``create_graph=True``."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"create_graph=True came through similarities of more than {DENSE} pairs, which have first derivatives "
            "only; give fewer pairs at once, or leave it out."
        )
