"""Embeddings with classes, small and seeded."""

import torch


def classed(samples=12, dim=5, classes=3, seed=0):
    """Embeddings in float64 and their classes."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(samples, dim, dtype=torch.float64, generator=generator)
    return embeddings, torch.randint(classes, (samples,), generator=generator)
