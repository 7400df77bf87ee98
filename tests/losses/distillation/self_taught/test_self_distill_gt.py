import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import SelfDistillGT
from lightning_losses.losses.distillation.self_taught.self_distill_gt import kernel_generations, optimal_alpha
from tests.losses.strategies import gradient, one_hot, pairs


@given(pairs(), st.floats(0, 1))
def test_gradient_in_closed_form(pair, alpha):
    """A mixed target has the same gradient as the mixed losses."""
    s, t = (z.softmax(dim=-1) for z in pair[:2])
    apart = s - alpha * one_hot(pair.target, s) - (1 - alpha) * t
    expected = 2 * s * (apart - (s * apart).sum(dim=-1, keepdim=True)) / s.numel()
    torch.testing.assert_close(gradient(SelfDistillGT(alpha), *pair), expected)


@given(pairs(), st.floats(0, 1))
def test_mixed_losses_are_a_mixed_target_up_to_a_constant(pair, alpha):
    s, t = (z.softmax(dim=-1) for z in pair[:2])
    label = one_hot(pair.target, s)
    mixed = (s - alpha * label - (1 - alpha) * t).square().mean()
    constant = alpha * (1 - alpha) * (label - t).square().mean()
    torch.testing.assert_close(SelfDistillGT(alpha=alpha)(*pair), mixed + constant)


def problem(n=8, m=5):
    points, others = torch.randn(n, 3, dtype=torch.float64), torch.randn(m, 3, dtype=torch.float64)

    def kernel(a, b):
        return torch.exp(-(torch.cdist(a, b) ** 2) / 2)

    return kernel(points, points), kernel(others, points), torch.randn(n, dtype=torch.float64)


def test_the_label_alone_repeats_the_first_fit():
    fits = kernel_generations(*problem(), alpha=1.0, ridge=0.3, steps=4).fits
    torch.testing.assert_close(fits, fits[:1].expand(4, -1))


def test_the_teacher_alone_shrinks_to_nothing():
    kernel, other, y = problem()
    fits = kernel_generations(kernel, other, y, alpha=0.0, ridge=0.3, steps=200).fits
    shrink = kernel @ torch.linalg.inv(kernel + 0.3 * torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(fits[2], shrink @ shrink @ shrink @ y)
    assert fits[-1].norm() < 1e-3 * fits[0].norm()


def test_between_them_generations_converge_to_a_larger_ridge():
    kernel, other, y = problem()
    last = kernel_generations(kernel, other, y, alpha=0.4, ridge=0.3, steps=200).fits[-1]
    amplified = kernel_generations(kernel, other, y, alpha=0.4, ridge=0.3 / 0.4, steps=1).fits[0]
    torch.testing.assert_close(last, amplified, rtol=0, atol=1e-10)


def test_the_optimal_alpha_is_a_minimum():
    kernel, other, y = problem()
    held_out = torch.randn(5, dtype=torch.float64)
    first = kernel_generations(kernel, other, y, alpha=1.0, ridge=0.3, steps=1)
    second = kernel_generations(kernel, other, first.fits[0], alpha=1.0, ridge=0.3, steps=1)
    a, b = first.val_fits[0], second.val_fits[0]
    best = optimal_alpha(a, b, held_out)

    def error(alpha):
        return (alpha * a + (1 - alpha) * b - held_out).square().sum()

    assert error(best) <= min(error(best + 1e-3), error(best - 1e-3))
    mixed = kernel_generations(kernel, other, best * y + (1 - best) * first.fits[0], alpha=1.0, ridge=0.3, steps=1)
    torch.testing.assert_close(mixed.val_fits[0], best * a + (1 - best) * b)


@pytest.mark.parametrize("options", [{"ridge": 0.0, "steps": 1}, {"ridge": 1.0, "steps": 0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="^self_distill_gt: "):
        kernel_generations(*problem(), alpha=0.5, **options)
    with pytest.raises(ValueError, match="^self_distill_gt: alpha=2"):
        SelfDistillGT(2)
