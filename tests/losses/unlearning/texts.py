"""Log-probabilities of texts for the tests of unlearning, with holes in their masks."""

import torch
from torch import Tensor

MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]])


def logps(seed: int, rows: int = 3, tokens: int = 4) -> Tensor:
    """Log-probabilities in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, tokens, 7, dtype=torch.float64, generator=generator).log_softmax(-1)[..., 0]


def slope(value_of, given: Tensor) -> Tensor:
    """The gradient of a function of log-probabilities."""
    leaf = given.clone().requires_grad_()
    return torch.autograd.grad(value_of(leaf), leaf)[0]
