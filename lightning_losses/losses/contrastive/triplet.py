"""Triplet loss: an anchor is nearer to a sample of its class than to one of another class, by a margin."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.losses.kinds import ClassedEmbeddings, EmbeddingLoss
from lightning_losses.numerics.distances import distances, unit_rows
from lightning_losses.numerics.settings import NonNegative

Mining = Literal["all", "semi_hard", "hard"]


class Triplet(EmbeddingLoss):
    """Triplet loss: an anchor is nearer to a sample of its class than to one of another class, by a margin.

    ``max(0, d_ap - d_an + m)``, d being the distance of embeddings of length 1, averaged over the triplets of an anchor
    a, a positive p of its class and a negative n of another that `mining` takes and whose value is above 0.

    No triplet is formed: an anchor's negatives are sorted once, and how many of them lie within the margin of each
    positive is looked up. So B samples take O(B²) memory and O(B² log B) time, of up to B³ / 4 triplets.

    Args:
        margin: m, at least 0.
        mining: "all" triplets of the batch; "semi_hard" ones, whose negative is farther than the positive, but by less
            than m; or the "hard" one of each anchor, of its farthest positive and nearest negative.
        average: "nonzero" divides by the triplets whose value is above 0, "all" by all that `mining` takes.

    Shapes:
        embeddings: [B, D], not normalised; target: [B] classes of any numbers.

    Returns:
        A scalar; 0 of a batch without triplets.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range.

    Source:
        Schroff, Kalenichenko, Philbin, 2015, "FaceNet: A Unified Embedding for Face Recognition and Clustering",
        arXiv:1503.03832, which squares the distances; Hermans, Beyer, Leibe, 2017, "In Defense of the Triplet Loss for
        Person Re-Identification", arXiv:1703.07737, for "hard". Margin and averages are those of
        pytorch-metric-learning.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])
        >>> round(Triplet(margin=0.2)(embeddings, torch.tensor([0, 0, 1])).item(), 4)
        0.8934
    """

    status = "paper"
    evidence = "values and gradients of pytorch-metric-learning 2.9, not the authors' code"

    margin: NonNegative = 0.05
    mining: Mining = "all"
    average: Literal["nonzero", "all"] = "nonzero"

    def measure(self, given: ClassedEmbeddings) -> Float[Tensor, ""]:
        """The mean over triplets."""
        unit = unit_rows(given.embeddings)
        # Around their mean, so that the distances of embeddings that have collapsed are no rounding errors.
        centred = unit - unit.detach().mean(dim=0)
        apart, pairs, alike = distances(centred, centred), given.pairs, given.alike
        positive, negative = pairs & alike, pairs & ~alike
        if self.mining == "hard":
            return self._of_hardest(apart, positive, negative)
        taken = triplets(apart.detach(), positive, negative, self.margin, semi_hard=self.mining == "semi_hard")
        # Each anchor has its triplets on both sides, so its mean distance may be taken off: the sums round less.
        shifted = apart - apart.detach().mean(dim=-1, keepdim=True)
        of_positives, of_negatives = (times.to(apart.dtype) for times in (taken.positives, taken.negatives))
        number = taken.positives.sum()
        total = ((of_positives - of_negatives) * shifted).sum() + self.margin * number.to(apart.dtype)
        if self.average == "all" and self.mining == "all":
            number = (positive.sum(dim=-1) * negative.sum(dim=-1)).sum()
        return total / number.clamp(min=1)

    def _of_hardest(
        self,
        apart: Float[Tensor, "batch batch"],
        positive: Bool[Tensor, "batch batch"],
        negative: Bool[Tensor, "batch batch"],
    ) -> Float[Tensor, ""]:
        constant = apart.detach()
        farthest = constant.masked_fill(~positive, -1.0).max(dim=-1, keepdim=True).indices
        nearest = constant.masked_fill(~negative, torch.inf).min(dim=-1, keepdim=True).indices
        has_both = positive.any(dim=-1, keepdim=True) & negative.any(dim=-1, keepdim=True)
        violation = torch.relu(apart.gather(-1, farthest) - apart.gather(-1, nearest) + self.margin) * has_both
        number = (violation > 0).sum() if self.average == "nonzero" else has_both.sum()
        return violation.sum() / number.clamp(min=1)


class Triplets(NamedTuple):
    """In how many triplets each pair of anchor and positive, or of anchor and negative, is; 0 of other pairs."""

    positives: Int[Tensor, "batch batch"]
    negatives: Int[Tensor, "batch batch"]


def triplets(
    apart: Float[Tensor, "batch batch"],
    positive: Bool[Tensor, "batch batch"],
    negative: Bool[Tensor, "batch batch"],
    margin: float,
    *,
    semi_hard: bool = False,
) -> Triplets:
    """Counts the triplets with ``d_an < d_ap + margin``, semi-hard ones also with ``d_ap < d_an``, without forming any.

    Args:
        apart: distances, a row for each anchor; constant.
        positive: which pairs are positive.
        negative: which are negative.
        margin: at least 0.
        semi_hard: whether the negative must be the farther one.

    Example:
        >>> apart = torch.tensor([[0.0, 1.0, 0.9]])
        >>> triplets(apart, torch.tensor([[False, True, False]]), torch.tensor([[False, False, True]]), 0.1)
        Triplets(positives=tensor([[0, 1, 0]]), negatives=tensor([[0, 0, 1]]))
    """
    ordered, order = apart.masked_fill(~negative, torch.inf).sort(dim=-1)
    # The sorted negatives of a triplet are those from `begin` up to `end`.
    end = torch.searchsorted(ordered, apart + margin)
    begin = torch.searchsorted(ordered, apart, right=True) if semi_hard else torch.zeros_like(end)
    number = (end - begin).clamp(min=0) * positive
    edges = torch.zeros((*end.shape[:-1], end.shape[-1] + 1), dtype=end.dtype, device=end.device)
    ones = (number > 0).to(end.dtype)
    edges = edges.scatter_add(-1, begin, ones).scatter_add(-1, end, -ones)
    return Triplets(number, torch.zeros_like(end).scatter(-1, order, edges.cumsum(dim=-1)[..., :-1]))
