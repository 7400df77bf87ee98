"""Optimal transport as a building block of losses."""

from lightning_losses.transport.normalization import row_column_normalization
from lightning_losses.transport.pairwise import l1_distances
from lightning_losses.transport.sinkhorn import Transport, entropic_cost, kl_cost, sharp_cost, sinkhorn

__all__ = [
    "Transport",
    "entropic_cost",
    "kl_cost",
    "l1_distances",
    "row_column_normalization",
    "sharp_cost",
    "sinkhorn",
]
