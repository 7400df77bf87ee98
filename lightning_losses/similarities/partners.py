"""The cross-entropy of picking each vector's partner out of another set, in one direction or both."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_count
from lightning_losses.numerics.probabilities import softplus
from lightning_losses.similarities.derivatives import value_by_walk
from lightning_losses.similarities.directions import Gradients, both_directions, one_direction
from lightning_losses.similarities.tiles import Pairs, check_pairs, check_partners


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

    Gradients are made beside the value. For one direction, the scores of a block of rows are held at once, and computed
    once; for both, those of a tile, and computed twice.

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
        negatives = negatives.detach() if len(negatives) else None
    if hardest is not None:
        check_count("partner_cross_entropy", "hardest", hardest)
    picking = _Picking(pairs, negatives, hardest, both)
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
    ) -> tuple[Tensor, Gradients]:
        """Value and gradients, without the matrix."""
        pick, weight = partial(one_direction, pairs=self.pairs), self.weight(rows)
        if not self.both:
            return pick(rows, columns, scale, weight, wanted, negatives=self.negatives, hardest=self.hardest)
        if self.hardest is None:
            return both_directions(rows, columns, scale, weight, wanted, pairs=self.pairs, negatives=self.negatives)
        # Columns pick among all rows, and rows among the hardest: each by itself.
        value, first = pick(rows, columns, scale, weight, wanted, negatives=self.negatives, hardest=self.hardest)
        of_columns, second = pick(columns, rows, scale, weight, [wanted[1], wanted[0], wanted[2]])
        each = zip(first, (second[1], second[0], second[2]), strict=True)
        return value + of_columns, [None if one is None or two is None else one.add_(two) for one, two in each]
