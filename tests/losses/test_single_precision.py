"""Divergences of networks that are near each other, in single precision: at least 0, and as in double precision."""

import pytest
import torch

from lightning_losses.losses import ABDivergence, AdaptiveAlphaDivergence
from lightning_losses.losses.distillation.divergences.adaptive_alpha_divergence import alpha_divergence

EXPONENTS = [
    *((0.2, 0.7), (0.06, 0.06), (0.05, 0.05), (0.051, 0.9), (1.0, 0.051), (-0.06, 0.3), (0.5, -0.449), (2.0, -1.0)),
    *((0.3, -0.3), (0.3, 0.0), (0.0, 0.3), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)),
]


def logits(classes, spread):
    generator = torch.Generator().manual_seed(0)
    student = 3 * torch.randn(2, classes, generator=generator)
    return student, student + spread * torch.randn(2, classes, generator=generator)


@pytest.mark.parametrize("classes", [5, 300, 32000])
@pytest.mark.parametrize("exponents", EXPONENTS)
def test_alpha_beta_divergences_lose_nothing(classes, exponents):
    loss = ABDivergence(*exponents, reduction="none")
    for spread in (0.01, 3.0):
        student, teacher = logits(classes, spread)
        assert loss(student, student.clone()).abs().max() < 1e-9
        torch.testing.assert_close(
            loss(student, teacher).double(), loss(student.double(), teacher.double()), rtol=5e-3, atol=0.0
        )


@pytest.mark.parametrize("alpha", [-1.0, -0.06, -0.04, 0.0, 0.06, 0.5, 0.94, 0.96, 1.0, 1.06, 2.0])
def test_alpha_divergences_lose_nothing(alpha):
    for classes, spread in ((5, 0.01), (300, 0.01), (300, 3.0)):
        pair = [one.log_softmax(dim=-1) for one in logits(classes, spread)]
        exact = alpha_divergence(
            *(one.log_softmax(dim=-1) for one in map(torch.Tensor.double, logits(classes, spread))), alpha, 5.0
        )
        torch.testing.assert_close(alpha_divergence(*pair, alpha, 5.0).value.double(), exact.value, rtol=1e-2, atol=0.0)
    student, _ = logits(300, 0.0)
    assert AdaptiveAlphaDivergence()(student, student.clone()) == 0
