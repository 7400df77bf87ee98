"""Divergences of networks that are near each other, in single precision: at least 0, and as in double precision."""

import copy

import pytest
import torch

from lightning_losses.losses import DKD, ABDivergence, AdaptiveAlphaDivergence
from lightning_losses.losses.distillation.divergences.adaptive_alpha_divergence import alpha_divergence
from tests.losses.test_masks import DIVERGENCES

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


# These are sums of terms of at least 0; the others are rounded as `kl_divergence` says.
NEVER_BELOW_0 = [name for name in DIVERGENCES if name.startswith(("ab", "adaptive_alpha", "binary", "total"))]
# Their gradient jumps where classes, or entropies, are equal.
JUMPING = {"total_variation", "bdkd"}
# The logits' scale, how far the student is from its teacher, and whether both mask a class.
ROWS = [
    (scale, step, hides) for scale in (0.1, 1.0, 20.0) for step in (0.0, 1e-8, 1e-6, 1e-4, 1e-2) for hides in (0, 1)
]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_near_the_teacher_it_is_at_least_0_with_the_right_gradient(name):
    """Also beside a masked class: to a rounding of 1e-6, and of 1e-15 in double precision, times the factors it has."""
    loss, draw = copy.copy(DIVERGENCES[name]), torch.Generator().manual_seed(0)
    loss.reduction = "none"
    scale, step, hides = (torch.tensor(column)[:, None] for column in zip(*ROWS, strict=True))
    teacher, direction = (torch.randn(len(ROWS), 6, generator=draw) for _ in range(2))
    teacher = scale * teacher.masked_fill((hides == 1) & (torch.arange(6) == 0), -torch.inf)
    target = (torch.full((len(ROWS),), 2),) if isinstance(loss, DKD) else ()
    values, slopes = [], []
    for dtype in (torch.float32, torch.float64):
        leaf = (teacher + step * direction).to(dtype).requires_grad_()
        values.append(loss(leaf, teacher.to(dtype), *target))
        slopes.append(torch.autograd.grad(values[-1].sum(), leaf)[0].double())
    rounding = (
        getattr(loss, "temperature", 1.0) ** 2 * getattr(loss, "boost", 1.0) * max(1.0, getattr(loss, "beta", 1.0))
    )
    for value, unit in zip(values, (1e-6, 1e-15), strict=True):
        assert value.min() >= (0.0 if name in NEVER_BELOW_0 else -unit * rounding)
    torch.testing.assert_close(
        values[0].double(), values[1], rtol=2e-2, atol=(1e-7 if name in NEVER_BELOW_0 else 1e-6) * rounding
    )
    if name not in JUMPING:
        torch.testing.assert_close(*slopes, rtol=2e-2, atol=1e-6 * rounding**0.5)
