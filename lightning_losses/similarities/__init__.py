"""Sums over the similarities of all pairs of two sets of vectors, whose matrix is never held."""

from lightning_losses.similarities.logsumexp import similarity_logsumexp, two_way_logsumexp
from lightning_losses.similarities.nearest import kth_largest_similarity
from lightning_losses.similarities.partners import partner_cross_entropy
from lightning_losses.similarities.softplus import similarity_softplus

__all__ = [
    "kth_largest_similarity",
    "partner_cross_entropy",
    "similarity_logsumexp",
    "similarity_softplus",
    "two_way_logsumexp",
]
