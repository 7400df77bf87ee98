"""Losses of the similarities of all pairs of two sets of vectors, whose matrix is never held."""

from lightning_losses.similarities.logistic import partner_logistic
from lightning_losses.similarities.logsumexp import similarity_logsumexp
from lightning_losses.similarities.partners import partner_cross_entropy

__all__ = ["partner_cross_entropy", "partner_logistic", "similarity_logsumexp"]
