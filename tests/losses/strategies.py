"""Random rows of logits for property tests."""

from typing import NamedTuple

import hypothesis.strategies as st
import torch
from torch import Tensor


class Pair(NamedTuple):
    """A student's and a teacher's logits in float64, and class indices."""

    logits: Tensor
    teacher_logits: Tensor
    target: Tensor


@st.composite
def pairs(draw, min_rows=1, min_classes=2, max_scale=8.0):
    rows, classes = draw(st.integers(min_rows, 6)), draw(st.integers(min_classes, 8))
    scale = draw(st.floats(0.1, max_scale))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal():
        return scale * torch.randn(rows, classes, dtype=torch.float64, generator=generator)

    return Pair(normal(), normal(), torch.randint(0, classes, (rows,), generator=generator))


def gradient(loss, logits, *others):
    """The gradient of a loss by its first argument."""
    leaf = logits.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, *others), leaf)[0]


def one_hot(target, like):
    return torch.nn.functional.one_hot(target, like.shape[-1]).to(like)
