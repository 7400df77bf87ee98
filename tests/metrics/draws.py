"""Labels drawn by chance, alike in every version of torch, whose `multinomial` has changed its stream."""

import torch
from torch import Tensor


def drawn(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A class for each row of probabilities."""
    uniform = torch.rand(len(probabilities), 1, dtype=probabilities.dtype, generator=generator)
    return (uniform > probabilities.cumsum(-1)[:, :-1]).sum(-1)
