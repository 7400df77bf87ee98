"""The cross-entropy of picking each vector's partner out of another set, in one direction or both."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_count
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.numerics.products import product
from lightning_losses.parallel.processes import total_of_all
from lightning_losses.similarities.derivatives import value_by_walk
from lightning_losses.similarities.logsumexp import Accumulated
from lightning_losses.similarities.tiles import LOG_2, Pairs, block_spans, check_pairs, check_partners, share_of


def partner_cross_entropy(
    rows: Float[Tensor, "batch width"],
    columns: Float[Tensor, "batch width"],
    *,
    scale: float | Float[Tensor, ""] = 1.0,
    target: Int[Tensor, " batch"] | None = None,
    kept: Bool[Tensor, " batch"] | None = None,
    negatives: Float[Tensor, "negatives width"] | None = None,
    hardest: int | None = None,
    both: bool = True,
) -> Float[Tensor, ""]:
    """``mean_i (log sum_j exp(s_ij) - s_ii)``, s_ij being ``scale rows_i · columns_j``; with `both`, also of columns.

    The scores of a block of rows are held at once. Gradients are made beside the value, so that the scores of one
    direction are computed once, and those of both twice.

    Args:
        rows: [B, D] in float32 or float64.
        columns: [B, D]; row i's partner is column i.
        scale: 1 / τ for a temperature τ; a tensor gets a gradient.
        target: [B]; others of the same number are no negatives; None: all others are.
        kept: [B]; what is not kept neither picks nor is picked; None keeps all. Without any the value is 0.
        negatives: [Q, D], constant, further columns, which are nobody's partners.
        hardest: each row picks among its partner and its k most similar negatives; None: among all. Equal ones at the
            border are all taken.
        both: whether columns pick rows too.

    Returns:
        A scalar, differentiable once; at will for small matrices.

    Example:
        >>> partner_cross_entropy(torch.zeros(2, 3), torch.ones(2, 3), both=False)
        tensor(0.6931)
    """
    pairs = Pairs(False, None, target, target, kept, kept)
    check_pairs(rows, columns, pairs)
    check_partners(rows, columns)
    if negatives is not None:
        check_pairs(rows, negatives, Pairs())
    if hardest is not None:
        check_count("partner_cross_entropy", "hardest", hardest)
    picking = _Picking(pairs, None if negatives is None else negatives.detach(), hardest, both)
    return value_by_walk(picking.walk, picking.matrix, rows, columns, scale)


class _Picking(NamedTuple):
    pairs: Pairs
    negatives: Float[Tensor, "negatives width"] | None
    hardest: int | None
    both: bool

    def weight(self, like: Float[Tensor, "batch width"]) -> Float[Tensor, " batch"]:
        """The share of each sample in the mean."""
        kept = self.pairs.row_kept
        if kept is None:
            return like.new_full((len(like),), 1 / max(len(like), 1))
        return kept.to(like.dtype) / kept.sum().clamp(min=1)

    def among_hardest(self, scores: Float[Tensor, "n columns"]) -> Float[Tensor, "n columns"]:
        """-inf for scores below their row's k-th largest."""
        if self.hardest is None or self.hardest >= scores.shape[1]:
            return scores
        return scores.masked_fill(scores < scores.detach().topk(self.hardest, dim=1).values[:, -1:], -torch.inf)

    def matrix(self, rows: Tensor, columns: Tensor, scale: float | Tensor) -> Tensor:
        """By the whole matrix, differentiable at will."""
        rows = rows * scale
        near, own = rows @ columns.mT, (rows * columns).sum(dim=-1)
        near = self.pairs.leave_out(near, slice(0, len(rows)), slice(0, len(columns)))
        every = near if self.negatives is None else torch.cat([near, rows @ self.negatives.mT], dim=1)
        # log(exp(own) + the others) - own is the softplus of what the others have more: exact also where it is small.
        each = softplus(self.among_hardest(every).logsumexp(dim=1) - own)
        if self.both:
            each = each + softplus(near.logsumexp(dim=0) - own)
        kept = self.pairs.row_kept
        return self.weight(rows) @ (each if kept is None else each.masked_fill(~kept, 0.0))

    def walk(
        self, rows: Tensor, columns: Tensor, scale: float | Tensor, wanted: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Value and gradients, block by block of rows; scores are in units of log 2."""
        share, blocks = share_of(rows, columns), block_spans(len(rows), len(columns), rows.device)
        mine, places = blocks[share.rank :: share.processes], slice(0, len(columns))
        # The gradients of all processes will be averaged.
        weight, factor = self.weight(rows), scale * share.processes
        by_rows = torch.zeros_like(rows) if wanted[0] else None
        by_columns = torch.zeros_like(columns) if wanted[1] else None
        value, by_scale = rows.new_zeros(()), rows.new_zeros(()) if wanted[2] else None
        own, near = rows.new_zeros(len(rows)), None

        def scored(i: slice) -> tuple[Tensor, Tensor]:
            scaled = rows[i] * (scale / LOG_2)
            near = product(scaled, columns)
            own[i] = near.diagonal(i.start)
            return scaled, self.pairs.leave_out(near, i, places)

        if self.both:
            of_columns = Accumulated(rows, len(columns))
            for i in mine:
                scaled, near = scored(i)
                of_columns.add(near, places, 0)
            if share.processes > 1:
                own = total_of_all(own, share.group)
            of_column = of_columns.value(share)
            more = (of_column - own).mul_(LOG_2)
            of_all, column_slope = weight @ softplus(more), more.sigmoid_().mul_(weight)
            # Of a column without pairs every probability is 0.
            of_column = of_column.masked_fill_(of_column == -torch.inf, torch.inf)
        for i in mine:
            # The scores of a single block are there already.
            if near is None or len(blocks) > 1:
                scaled, near = scored(i)
            by_column = (near - of_column).exp2_().mul_(column_slope) if self.both and any(wanted) else None
            every = near if self.negatives is None else torch.cat([near, product(scaled, self.negatives)], dim=1)
            every = self.among_hardest(every)
            # The powers of a row without pairs are 0.
            most = every.amax(dim=1).clamp_(min=torch.finfo(every.dtype).min)
            powers = every.sub_(most.unsqueeze(1)).exp2_()
            total = powers.sum(dim=1)
            more = most.add_(total.log2()).sub_(own[i]).mul_(LOG_2)
            value += weight[i] @ softplus(more)
            if not any(wanted):
                continue
            row_slope = more.sigmoid_().mul_(weight[i])
            slope = powers.mul_(row_slope.div(total.clamp_(min=1.0)).unsqueeze(1))
            if by_column is not None:
                slope[:, places].add_(by_column)
                row_slope += column_slope[i]
            slope.diagonal(i.start).copy_(row_slope.neg_())
            if wanted[0] or wanted[2]:
                of_block = product(slope[:, places], columns.t())
                if self.negatives is not None:
                    of_block += product(slope[:, len(columns) :], self.negatives.t())
                if by_scale is not None:
                    by_scale += (rows[i] * of_block).sum() * share.processes
                if by_rows is not None:
                    torch.mul(of_block, factor, out=by_rows[i])
            if by_columns is not None:
                by_columns.addmm_(slope[:, places].mT, scaled, alpha=LOG_2 * share.processes)
        if share.processes > 1:
            value = total_of_all(value, share.group)
        return value + of_all if self.both else value, [by_rows, by_columns, by_scale]
