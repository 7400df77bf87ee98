"""Logits and targets for the tests of losses over classes."""

import torch
from torch import Tensor

ROWS, CLASSES = 6, 5


def sample(scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits and targets in float64, of which some predictions are right."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def own(logits: Tensor, target: Tensor) -> Tensor:
    """[N, 1] the logits of the targets."""
    return logits.gather(-1, target.unsqueeze(-1))


def others(target: Tensor) -> Tensor:
    """[N, C] 1 where a class is not the target."""
    return 1 - torch.nn.functional.one_hot(target, CLASSES).double()


def slope(loss, logits: Tensor, target: Tensor) -> Tensor:
    """The gradient by the logits."""
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, target).sum(), leaf)[0]
