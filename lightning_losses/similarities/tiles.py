"""All pairs of rows and columns: which of them count, and their scores, all at once or in tiles."""

import math
from collections.abc import Callable, Iterator
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.numerics.derivatives import in_transform
from lightning_losses.numerics.products import accumulate, onednn_float32, product, spans
from lightning_losses.parallel.processes import Share, work_share

# Up to this many pairs, second derivatives are there, by the whole matrix.
DENSE = 1 << 19
# Scores in tiles are in units of log 2, because exp2 is the fastest exponential.
LOG_2 = math.log(2)


def _width(device: torch.device) -> int:
    """Scores of a tile stay in the cache of a CPU; a GPU wants large products."""
    return 512 if device.type == "cpu" else 8192


def block_spans(rows: int, columns: int, device: torch.device) -> list[slice]:
    """Rows whose scores with all columns are held at once, within the diagonal of one tile of `column_spans`."""
    width = _width(device)
    if device.type == "cpu":
        return list(spans(rows, width if columns <= width else width // 2))
    return list(spans(rows, max(width // 4, width * width // max(columns, 1))))


def column_spans(columns: int, device: torch.device) -> list[slice]:
    """The columns of a block's tiles: all in one, but where oneDNN multiplies, which is slower at wide transposes."""
    narrow = device.type == "cpu" and onednn_float32()
    return list(spans(columns, _width(device) if narrow else max(columns, 1)))


def small(rows: Tensor, columns: Tensor) -> bool:
    """Whether the pairs are so few that each process computes them, and their matrix may be held."""
    return len(rows) * len(columns) <= DENSE


def whole_matrix(rows: Tensor, columns: Tensor) -> bool:
    """Whether autograd works on the whole matrix: in a transform, of few pairs in compiled code, and without pairs."""
    few = torch.compiler.is_compiling() and small(rows, columns)
    return in_transform() or few or not (len(rows) and len(columns))


def share_of(rows: Tensor, columns: Tensor) -> Share:
    """This process's share of the pairs; few are not shared."""
    return Share(0, 1, None) if small(rows, columns) else work_share()


class Pairs(NamedTuple):
    """Which pairs of rows and columns count.

    Attributes:
        diagonal: whether the pairs (i, i) count.
        period: or None: pairs whose places differ by a multiple of it, such as views of one sample, do not count.
        row_identity: [N] int64, or None: a pair of equal identities does not count.
        column_identity: [M] int64, or None.
        row_kept: [N] bool, or None: pairs of a row that is not kept do not count.
        column_kept: [M] bool, or None.
    """

    diagonal: bool = True
    period: int | None = None
    row_identity: Int[Tensor, " rows"] | None = None
    column_identity: Int[Tensor, " columns"] | None = None
    row_kept: Bool[Tensor, " rows"] | None = None
    column_kept: Bool[Tensor, " columns"] | None = None

    def leave_out(self, scores: Float[Tensor, "n m"], rows: slice, columns: slice) -> Float[Tensor, "n m"]:
        """The scores of a tile, in place, with -inf where a pair does not count."""
        period, masks = self.period, []
        if period is not None and torch.compiler.is_compiling():
            # A compiler would unroll the loop below, for each size of a batch anew.
            own, others = (torch.arange(at.start, at.stop, device=scores.device) for at in (rows, columns))
            masks.append((others - own.unsqueeze(1)) % period == 0)
        elif period is not None:
            least, most = columns.start - rows.stop + 1, columns.stop - rows.start
            for apart in range(-(-least // period) * period, most, period):
                scores.diagonal(apart - columns.start + rows.start).fill_(-torch.inf)
        elif not self.diagonal:
            scores.diagonal(rows.start - columns.start).fill_(-torch.inf)
        if self.row_identity is not None and self.column_identity is not None:
            masks.append(self.row_identity[rows].unsqueeze(1) == self.column_identity[columns])
        if self.row_kept is not None:
            masks.append(~self.row_kept[rows].unsqueeze(1))
        if self.column_kept is not None:
            masks.append(~self.column_kept[columns].unsqueeze(0))
        return scores.masked_fill_(reduce(torch.logical_or, masks), -torch.inf) if masks else scores


class Tiles(NamedTuple):
    """The square tiles of a matrix of scores, in units of log 2.

    Attributes:
        rows: [N, D].
        columns: [M, D]; the rows themselves if they are compared with each other.
        pairs: which of them count.
        scale: the factor of the scores.
        share: which tiles are this process's.
        memory: for two tiles.
        among: whether the rows are compared with each other: half of the tiles tell all.
    """

    rows: Float[Tensor, "rows width"]
    columns: Float[Tensor, "columns width"]
    pairs: Pairs
    scale: float | Float[Tensor, ""]
    share: Share
    memory: Float[Tensor, "2 entries"]
    among: bool

    def __iter__(self) -> Iterator[tuple[slice, slice]]:  # type: ignore[override]
        """The tiles of this process's share; of a symmetric matrix those on and above the diagonal."""
        width = _width(self.memory.device)
        every = (
            (i, j)
            for i in spans(len(self.rows), width)
            for j in spans(len(self.columns), width)
            if not self.among or j.start >= i.start
        )
        return (tile for number, tile in enumerate(every) if number % self.share.processes == self.share.rank)

    @property
    def one(self) -> bool:
        """Whether one tile holds all."""
        return max(len(self.rows), len(self.columns)) <= _width(self.memory.device)

    def mirrored(self, rows: slice, columns: slice) -> bool:
        """Whether a tile stands for that on the other side of the diagonal too."""
        return self.among and rows.start != columns.start

    def memory_of(self, rows: slice, columns: slice, number: int) -> Float[Tensor, "n m"]:
        """The first or second memory of a tile's shape; scores are in the first, 0."""
        shape = rows.stop - rows.start, columns.stop - columns.start
        return self.memory[number, : shape[0] * shape[1]].view(shape)

    def scores(self, rows: slice, columns: slice) -> Float[Tensor, "n m"]:
        """The scores of a tile, -inf where a pair does not count."""
        scaled = self.rows[rows] * (self.scale / LOG_2)
        scores = product(scaled, self.columns[columns], out=self.memory_of(rows, columns, 0))
        return self.pairs.leave_out(scores, rows, columns)

    def gradients(
        self, slopes: Callable[[slice, slice], Float[Tensor, "n m"]], wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients by rows and columns; where rows are compared with each other, theirs alone.

        Args:
            slopes: the gradient by a tile's products of vectors; where rows are compared with each other, that by both
                products of each pair.
            wanted: whether rows and columns need one.
        """
        # Where nothing is shared, every entry is written: first by a tile of the first row or column.
        alone = self.share.processes == 1
        room = torch.empty_like if alone else torch.zeros_like
        by_rows = room(self.rows) if wanted[0] else None
        by_columns = by_rows if self.among else room(self.columns) if wanted[1] else None
        for i, j in self:
            slope = slopes(i, j)
            if by_rows is not None:
                accumulate(by_rows[i], slope, self.columns[j].t(), first=alone and j.start == 0)
            if by_columns is not None and (self.mirrored(i, j) or not self.among):
                accumulate(by_columns[j], slope.t(), self.rows[i].t(), first=alone and i.start == 0)
        return by_rows, None if self.among else by_columns


def tiles_of(
    rows: Tensor, columns: Tensor | None, pairs: Pairs, scale: float | Tensor, share: Share | None = None
) -> Tiles:
    """The tiles of all pairs, and memory for two of them; without columns, of the rows with each other."""
    others = rows if columns is None else columns
    width = _width(rows.device)
    memory = rows.new_empty(2, min(width, len(rows)) * min(width, len(others)))
    return Tiles(rows, others, pairs, scale, share or share_of(rows, others), memory, columns is None)


def check_pairs(rows: Tensor, columns: Tensor, pairs: Pairs) -> None:
    """Raise ``ValueError`` for rows and columns of different widths or dtypes, and for masks that do not fit them."""
    if rows.ndim != 2 or columns.ndim != 2 or rows.shape[1] != columns.shape[1] or rows.dtype != columns.dtype:
        raise ValueError(
            f"similarities: rows of shape {list(rows.shape)} and dtype {rows.dtype} came with columns of shape "
            f"{list(columns.shape)} and dtype {columns.dtype}; give [N, D] and [M, D] of one dtype."
        )
    if rows.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"similarities: rows of dtype {rows.dtype} came; give float32 or float64.")
    for name, vectors in (("row", rows), ("column", columns)):
        for kind in ("identity", "kept"):
            given, wanted = getattr(pairs, f"{name}_{kind}"), "a bool" if kind == "kept" else "an int64"
            if given is None:
                continue
            if given.shape != vectors.shape[:1] or (kind == "kept" and given.dtype != torch.bool):
                raise ValueError(
                    f"similarities: {name}_{kind} of shape {list(given.shape)} and dtype {given.dtype} came with "
                    f"{len(vectors)} {name}s; give {wanted} for each."
                )
    if (pairs.row_identity is None) != (pairs.column_identity is None):
        raise ValueError("similarities: identities of rows or of columns came alone; give both, or none.")


def check_partners(rows: Tensor, columns: Tensor) -> None:
    """Raise ``ValueError`` unless each row has a column."""
    if len(rows) != len(columns):
        raise ValueError(f"similarities: {len(rows)} rows came with {len(columns)} columns; give each row its partner.")
