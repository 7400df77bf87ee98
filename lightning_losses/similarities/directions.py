"""Values and gradients of picking partners: in one direction from each score computed once, in both from two walks."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.products import accumulate, by_onednn_float32, product
from lightning_losses.parallel.processes import total_of_all
from lightning_losses.similarities.powers import block_softmax, softmaxes
from lightning_losses.similarities.tiles import LOG_2, Pairs, block_spans, column_spans, share_of, tiles_of

Gradients = list[Tensor | None]


def one_direction(
    rows: Float[Tensor, "batch width"],
    columns: Float[Tensor, "batch width"],
    scale: float | Float[Tensor, ""],
    weight: Float[Tensor, " batch"],
    wanted: Sequence[bool],
    *,
    pairs: Pairs,
    negatives: Float[Tensor, "negatives width"] | None = None,
    hardest: int | None = None,
) -> tuple[Float[Tensor, ""], Gradients]:
    """The weighted sum of rows' cross-entropies, and the gradients by rows, columns and scale."""
    share, blocks = share_of(rows, columns), block_spans(len(rows), len(columns), rows.device)
    mine = blocks[share.rank :: share.processes]
    parts = [(columns, j) for j in column_spans(len(columns), rows.device)]
    near = len(parts)
    if negatives is not None:
        parts += [(negatives, j) for j in column_spans(len(negatives), rows.device)]
    # The block's tiles, one after the other.
    size = sum(j.stop - j.start for _, j in parts) * blocks[0].stop
    memory = None if by_onednn_float32(rows) else rows.new_empty(size)
    # Where nothing is shared, every entry is written.
    room = torch.empty_like if share.processes == 1 else torch.zeros_like
    by_rows = room(rows) if wanted[0] or wanted[2] else None
    by_columns = room(columns) if wanted[1] else None
    value, by_scale = rows.new_zeros(()), rows.new_zeros(()) if wanted[2] else None
    own = rows.new_empty(len(rows))

    def scored(i: slice) -> Iterator[Tensor]:
        """The scores of a block, tile by tile, in reused memory."""
        scaled, start = rows[i] * (scale / LOG_2), 0
        for number, (others, j) in enumerate(parts):
            shape = i.stop - i.start, j.stop - j.start
            out = None if memory is None else memory[start : start + shape[0] * shape[1]].view(shape)
            tile = product(scaled, others[j], out=out)
            start += tile.numel()
            if number < near:
                if j.start <= i.start < j.stop:
                    own[i] = tile.diagonal(i.start - j.start)
                pairs.leave_out(tile, i, j)
            elif pairs.row_kept is not None:
                tile.masked_fill_(~pairs.row_kept[i].unsqueeze(1), -torch.inf)
            yield tile

    def among_hardest(i: slice) -> Iterator[Tensor]:
        tiles = list(scored(i))
        every = torch.cat(tiles, dim=1)
        if hardest is not None and hardest < every.shape[1]:
            least = every.topk(hardest, dim=1).values[:, -1:]
            tiles = [tile.masked_fill_(tile < least, -torch.inf) for tile in tiles]
        yield from tiles

    for i in mine:
        a, share_of_each = rows[i], weight[i]
        kept = None if pairs.row_kept is None else pairs.row_kept[i]
        tiles, lse, total = block_softmax(partial(scored if hardest is None else among_hardest, i), rows, kept)
        more = lse.sub_(own[i]).mul_(LOG_2)
        value += share_of_each @ softplus(more)
        if not any(wanted):
            continue
        factor = more.sigmoid_().mul_(share_of_each).div_(total)
        for tile, (_, j) in zip(tiles[:near], parts, strict=False):
            if j.start <= i.start < j.stop:
                # Times the row's factor, it is the slope of the row's own score.
                tile.diagonal(i.start - j.start).copy_(total).neg_()
        scaled = (factor * (scale * share.processes)).unsqueeze(1)
        if by_rows is not None:
            of_rows = by_rows[i]
            for number, (tile, (others, j)) in enumerate(zip(tiles, parts, strict=True)):
                accumulate(of_rows, tile, others[j].t(), first=not number)
            if by_scale is not None:
                by_scale += torch.linalg.vecdot(a, of_rows) @ factor
            of_rows.mul_(scaled)
        if by_columns is not None:
            weighted = (a * scaled).t()
            for tile, (_, j) in zip(tiles[:near], parts, strict=False):
                accumulate(by_columns[j], tile.t(), weighted, first=i is mine[0])
        # Else they would stand beside the next block's.
        del tiles
    if share.processes > 1:
        value = total_of_all(value, share.group)
    # The gradients of all processes will be averaged.
    by_scale = None if by_scale is None else by_scale * share.processes
    return value, [by_rows if wanted[0] else None, by_columns, by_scale]


def both_directions(
    rows: Float[Tensor, "batch width"],
    columns: Float[Tensor, "batch width"],
    scale: float | Float[Tensor, ""],
    weight: Float[Tensor, " batch"],
    wanted: Sequence[bool],
    *,
    pairs: Pairs,
    negatives: Float[Tensor, "negatives width"] | None = None,
) -> tuple[Float[Tensor, ""], Gradients]:
    """As `one_direction`, with the cross-entropies of columns; the negatives are the rows' alone."""
    walk = tiles_of(rows, columns, pairs, scale)
    near, own = softmaxes(walk, columns=True), torch.linalg.vecdot(rows, columns) * scale
    if negatives is not None:
        beside = tiles_of(rows, negatives, Pairs(), scale, walk.share)
        far = softmaxes(beside)
        lse = torch.logaddexp2(near.of_rows, far.of_rows)
        near, far = near.among_more(lse), far.among_more(lse)
    more = torch.stack([lse * LOG_2 - own for lse in near[:2] if lse is not None])
    value = softplus(more).sum(dim=0) @ weight
    if not any(wanted):
        return value, [None, None, None]
    by_row, by_column = more.sigmoid_().mul_(weight)
    of_tile, of_own = near.slopes(walk, by_row, by_column), by_row.add(by_column).neg_()

    def slopes(i: slice, j: slice) -> Tensor:
        slope = of_tile(i, j)
        if i.start == j.start:
            slope.diagonal().copy_(of_own[i])
        return slope

    by_rows, by_columns = walk.gradients(slopes, (wanted[0] or wanted[2], wanted[1]))
    if by_rows is not None and negatives is not None:
        of_far, _ = beside.gradients(far.slopes(beside, by_row, None), (True, False))
        assert of_far is not None
        by_rows += of_far
    processes = walk.share.processes
    by_scale = None if by_rows is None or not wanted[2] else torch.linalg.vecdot(rows, by_rows).sum() * processes
    for each in (by_rows, by_columns):
        if each is not None:
            # The gradients of all processes will be averaged.
            each.mul_(scale * processes)
    return value, [by_rows if wanted[0] else None, by_columns, by_scale]
