"""Clusters the token vectors of each text within the forward pass, so that fewer vectors stand for it."""

from fractions import Fraction
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_count, check_number
from lightning_losses.numerics.maxsim import check_token_sets
from lightning_losses.numerics.probabilities import full_precision


class Clusters(NamedTuple):
    """The mean vector of each cluster, and which of them there are."""

    means: Float[Tensor, "texts clusters dim"]
    mask: Bool[Tensor, "texts clusters"]


class CrispClustering(nn.Module):
    """Clusters the token vectors of each text within the forward pass, so that fewer vectors stand for it.

    k-means over a text's own tokens, of which padding is none; the means of its clusters are compared by MaxSim in
    place of the tokens. Which token belongs to which cluster has no gradient, the means have one. The first centres
    are tokens at equal distances in the text, so that the same text has the same clusters; a cluster that loses its
    tokens is masked. With at least as many clusters as tokens nothing changes; a single one is mean pooling.

    Args:
        clusters: the number of clusters of each text, at least 1; None takes `share`.
        share: the number of clusters as a share of the text's tokens, above 0 and at most 1, rounded up; None takes
            `clusters`. Give one of the two.
        steps: of k-means, at least 1.

    Shapes:
        tokens: [B, T, D]; mask (optional): [B, T], other than 0 for a token. The means are [B, K, D] and their mask
        [B, K], with K the number of clusters of a text of T tokens.

    Raises:
        ValueError: both or none of `clusters` and `share`; numbers out of their range; shapes that do not fit.

    Source:
        Veneroso et al., 2025, "CRISP: Clustering Multi-Vector Representations for Denoising and Pruning",
        arXiv:2505.11471, by its abstract: start, steps and empty clusters are choices of this library.

    Example:
        >>> tokens = torch.tensor([[[0.0, 1.0], [0.0, 3.0], [9.0, 0.0], [7.0, 0.0]]])
        >>> CrispClustering(clusters=2)(tokens).means
        tensor([[[0., 2.],
                 [8., 0.]]])
    """

    def __init__(self, clusters: int | None = None, share: float | None = None, steps: int = 5) -> None:
        super().__init__()
        if (clusters is None) == (share is None):
            raise ValueError(f"crisp_clustering: clusters={clusters} came with share={share}; give one of the two.")
        if clusters is not None:
            check_count("crisp_clustering", "clusters", clusters)
        if share is not None:
            check_number("crisp_clustering", "share", share, above=0, most=1)
        check_count("crisp_clustering", "steps", steps)
        self.clusters, self.share, self.steps = clusters, share, steps

    def forward(
        self, tokens: Float[Tensor, "texts tokens dim"], mask: Shaped[Tensor, "texts tokens"] | None = None
    ) -> Clusters:
        """The clusters of each text."""
        check_token_sets("crisp_clustering", tokens=tokens, mask=mask)
        there = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask != 0
        # Padding, whatever it holds, has no place in a sum.
        wide = full_precision(tokens).masked_fill(~there.unsqueeze(-1), 0.0)
        lengths = there.sum(dim=-1, keepdim=True)
        most = self._number(torch.tensor(tokens.shape[1])).item()
        number = torch.minimum(self._number(lengths), lengths)
        # In half precision the sum of a long text's tokens may be infinite.
        with torch.autocast(tokens.device.type, enabled=False):
            members = self._assigned(wide.detach(), there, lengths, number, int(most))
            counts = members.sum(dim=-1)
            means = members.to(wide) @ wide / counts.clamp(min=1).unsqueeze(-1)
        return Clusters(means.to(tokens.dtype), counts > 0)

    def extra_repr(self) -> str:
        """The settings."""
        return f"clusters={self.clusters}, share={self.share}, steps={self.steps}"

    def _number(self, lengths: Tensor) -> Tensor:
        """How many clusters texts of these lengths have at most."""
        if self.share is None:
            assert self.clusters is not None
            return torch.full_like(lengths, self.clusters)
        # Of the share as it is written: in binary 0.15 is more, and 16 of 100.
        share = Fraction(self.share).limit_denominator(1_000_000)
        parts = lengths * share.numerator + share.denominator - 1
        return parts.div(share.denominator, rounding_mode="floor").clamp(min=1)

    @torch.no_grad()
    def _assigned(self, tokens: Tensor, there: Tensor, lengths: Tensor, number: Tensor, most: int) -> Tensor:
        """[B, K, T] whether each token belongs to each cluster."""
        order = torch.arange(most, device=tokens.device)
        # The middle of each of so many equal stretches of the text, among its tokens alone.
        middle = ((2 * order + 1) * lengths).div(2 * number.clamp(min=1), rounding_mode="floor")
        place = there.long().argsort(dim=-1, descending=True, stable=True)
        place = place.gather(1, middle.clamp(max=tokens.shape[1] - 1))
        centres = tokens.gather(1, place.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        lacking = order >= number
        members = torch.zeros(len(tokens), most, tokens.shape[1], dtype=torch.bool, device=tokens.device)
        for _ in range(self.steps):
            distances = torch.cdist(centres, tokens, compute_mode="donot_use_mm_for_euclid_dist")
            nearest = distances.masked_fill(lacking.unsqueeze(-1), torch.inf).argmin(dim=1, keepdim=True)
            members = torch.zeros_like(members).scatter(1, nearest, True) & there.unsqueeze(1)
            counts = members.sum(dim=-1, keepdim=True)
            lacking = lacking | (counts.squeeze(-1) == 0)
            centres = members.to(tokens) @ tokens / counts.clamp(min=1)
        return members
