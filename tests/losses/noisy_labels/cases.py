"""Logits and targets for the tests of losses for noisy labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS, CLASSES = 6, 5


def sample() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets, and the probabilities of the targets, in float64."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64)
    target = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return logits, target, logits.softmax(-1)[torch.arange(ROWS), target]


def slope(loss, logits: Tensor, target: Tensor) -> Tensor:
    """The gradient by the logits."""
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, target).sum(), leaf)[0]


def slope_of_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The gradient of each row's cross-entropy: p - e_y."""
    return logits.softmax(-1) - F.one_hot(target, logits.shape[-1])


def over_all_labels(loss, logits: Tensor) -> Tensor:
    """The sum of a row's values over all labels that it could have; a constant for a symmetric loss."""
    labels = torch.arange(logits.shape[-1])
    return torch.stack([loss(logits, label.expand(len(logits))) for label in labels]).sum(0)
