import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import AdaptiveAlphaDivergence, ForwardKL, ReverseKL
from lightning_losses.losses.distillation.divergences.adaptive_alpha_divergence import alpha_divergence
from tests.losses.strategies import gradient, pairs

UNCUT = 1e30


@given(pairs(max_scale=2.0))
def test_limits_with_a_name(pair):
    """KL(t || s) at 1, KL(s || t) at 0, values and gradients, where nothing is cut."""
    for alpha, divergence in ((1.0, ForwardKL()), (0.0, ReverseKL())):

        def loss(logits, alpha=alpha):
            return AdaptiveAlphaDivergence(alpha_min=alpha, alpha_max=alpha, clip=UNCUT)(logits, pair.teacher_logits)

        torch.testing.assert_close(loss(pair.logits), divergence(*pair[:2]))
        expected = gradient(divergence, *pair[:2])
        torch.testing.assert_close(gradient(loss, pair.logits), expected)


@given(pairs(max_scale=1.0), st.sampled_from([-1.0, -0.5, 0.5, 2.0]))
def test_uncut_the_gradient_is_that_of_the_divergence(pair, alpha):
    def plain(logits):
        s, t = logits.softmax(dim=-1), pair.teacher_logits.softmax(dim=-1)
        return (s * ((t / s) ** alpha - 1)).sum(dim=-1).mean() / (alpha * (alpha - 1))

    def ours(logits):
        return AdaptiveAlphaDivergence(alpha_min=alpha, alpha_max=alpha, clip=UNCUT)(logits, pair.teacher_logits)

    torch.testing.assert_close(ours(pair.logits), plain(pair.logits))
    torch.testing.assert_close(gradient(ours, pair.logits), gradient(plain, pair.logits))


@given(pairs())
def test_the_larger_counts_row_by_row(pair):
    log_s, log_t = (z.log_softmax(dim=-1) for z in pair[:2])
    low, high = (alpha_divergence(log_s, log_t, alpha, 5.0).value for alpha in (-1.0, 1.0))
    value = AdaptiveAlphaDivergence(reduction="none")(*pair[:2])
    torch.testing.assert_close(value, torch.maximum(low, high))


@given(pairs())
def test_zero_and_stationary_at_the_teacher(pair):
    assert abs(AdaptiveAlphaDivergence()(pair.logits, pair.logits).item()) < 1e-12
    assert gradient(AdaptiveAlphaDivergence(), pair.logits, pair.logits).abs().max() < 1e-12


def test_a_cut_bounds_the_weights():
    """A sure student against the opposite teacher: the ratio's square term stops at the cut."""
    student, teacher = torch.tensor([[20.0, 0.0]]), torch.tensor([[0.0, 20.0]])
    loss = AdaptiveAlphaDivergence(alpha_min=-1.0, alpha_max=-1.0, clip=5.0)
    torch.testing.assert_close(loss(student, teacher), torch.tensor(2.0))  # (5 - 1) / 2


def test_a_cut_bounds_the_ratio_whose_logarithm_the_limit_at_0_takes():
    student, teacher = torch.tensor([[0.0, 9.0]]), torch.tensor([[9.0, 0.0]])
    s, t = (z.double().softmax(dim=-1) for z in (student, teacher))
    loss = AdaptiveAlphaDivergence(alpha_min=0.0, alpha_max=0.0, clip=5.0)
    expected = -(s * (t / s).clamp(max=5.0).log()).sum()
    torch.testing.assert_close(loss(student.double(), teacher.double()), expected)


def test_a_cut_of_zero_is_refused():
    with pytest.raises(ValueError, match="^adaptive_alpha_divergence: clip=0"):
        AdaptiveAlphaDivergence(clip=0)
