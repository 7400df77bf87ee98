"""Triplet loss with online hard negatives: a row's own column stays a margin above the k best of the wrong ones."""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_losses.losses.kinds import RowLoss, index_rows
from lightning_losses.numerics.reduction import reduce
from lightning_losses.numerics.rows import label_rows, one_hot, pick
from lightning_losses.numerics.settings import Count, NonNegative, Temperature

# Stands in `multi_hot` for a column of which nothing is known; `ignore_index` may be a class.
_UNKNOWN = -100


class TripletOHNM(RowLoss):
    """Triplet loss with online hard negatives: a row's own column stays a margin above the k best of the wrong ones.

    ``1/k sum_j w_j max(0, s_j - s_y + margin)`` over the k largest scores s_j of the columns that are wrong, s_y the
    score of the row's own column. With `weigh` a violator's weight is ``w_j = softmax_j(s_j / τ)`` among the k, in
    which a column that keeps the margin enters with a score of 0; else w_j = 1. A row with fewer than k wrong columns
    takes all of them; one without any costs 0.

    Scores are cosines of queries and documents of the batch, not divided by a temperature. Hard negatives come from the
    batch alone, so make batches of similar samples by `NGAMESampler`.

    Args:
        margin: at least 0.
        k: how many negatives count, at least 1.
        weigh: whether the hardest weigh most.
        temperature: τ of these weights, above 0.

    Shapes:
        logits: [..., C]; target: [...] the own column of each row; multi_hot (optional): [..., C], above 0 for
        further columns that are no negatives; -100 for one that is not known, which is none either.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        Dahiya et al., 2023, "NGAME: Negative Mining-aware Mini-batching for Extreme Classification", arXiv:2207.04452,
        and its code Extreme-classification/ngame, in which right columns count as scores of -10 where a row has fewer
        than k wrong ones.

    Example:
        >>> scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.9, 0.3]])
        >>> TripletOHNM(k=2, reduction="none")(scores, torch.tensor([0, 1]))
        tensor([0.1000, 0.0000])
    """

    status = "confirmed"
    evidence = "Extreme-classification/ngame"

    margin: NonNegative = 0.3
    k: Count = 10
    weigh: bool = False
    temperature: Temperature = 0.1

    def forward(
        self,
        logits: Float[Tensor, "*rows classes"],
        target: Int[Tensor, "*rows"],
        multi_hot: Shaped[Tensor, "*rows classes"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        given = index_rows(self._identifier, logits, target, self.ignore_index)
        scores, kept = given.logits, given.kept
        own = one_hot(given.target, scores) > 0
        excluded = own
        if multi_hot is not None:
            if kept is not None and isinstance(multi_hot, Tensor) and multi_hot.shape == scores.shape:
                multi_hot = multi_hot.to(scores).masked_fill(~kept.unsqueeze(-1), _UNKNOWN)
            labels = label_rows(self._identifier, scores, multi_hot, _UNKNOWN)
            known = torch.ones_like(own) if labels.counted is None else labels.counted
            # A row of whose own column nothing is known is ignored.
            kept = (known & own).any(dim=-1)
            excluded = own | (labels.multi_hot > 0) | ~known
            # What is not a number is not lost.
            scores = labels.logits.masked_fill(torch.isnan(labels.multi_hot), torch.nan)
        value = self._violations(scores, pick(scores, given.target), excluded)
        return reduce(value, self.reduction, kept)

    def denominator(self, **tensors: Tensor) -> Tensor:
        """What reduction "mean" divides by: the rows whose own column is known."""
        target, multi_hot = tensors["target"], tensors.get("multi_hot")
        kept = target != self.ignore_index
        if multi_hot is not None:
            own = multi_hot.gather(-1, target.masked_fill(~kept, 0).unsqueeze(-1)).squeeze(-1)
            kept = kept & (own != _UNKNOWN)
        return kept.sum()

    def _violations(
        self,
        scores: Float[Tensor, "*rows classes"],
        own: Float[Tensor, "*rows"],
        excluded: Bool[Tensor, "*rows classes"],
    ) -> Float[Tensor, "*rows"]:
        """The mean over the hardest negatives of each row."""
        # What is not a number is among them.
        wrong = scores.masked_fill(excluded & ~torch.isnan(scores.detach()), -torch.inf)
        hardest = wrong.topk(min(self.k, wrong.shape[-1]), dim=-1).values
        there = ~torch.isneginf(hardest.detach())
        hardest = hardest.masked_fill(~there, 0.0)
        violation = (hardest - own.unsqueeze(-1) + self.margin).clamp(min=0.0).masked_fill(~there, 0.0)
        if self.weigh:
            weights = (hardest / self.temperature).masked_fill(violation.detach() == 0, 0.0)
            weights = weights.masked_fill(~there, torch.finfo(weights.dtype).min).softmax(dim=-1)
            violation = violation * weights
        return violation.sum(dim=-1) / there.sum(dim=-1).clamp(min=1)
