"""Logits and targets for the tests of calibration objectives."""

import torch
from torch import Tensor


def sample(rows: int = 12, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and targets of which some predictions are right, in float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def confidences(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence, and 1 where the prediction is right."""
    confidence, prediction = logits.softmax(-1).max(-1)
    return confidence, (prediction == target).double()
