import pytest
import torch
from hypothesis import given

from lightning_losses.losses import AdaptiveKL, ForwardKL, ReverseKL
from tests.losses.strategies import gradient, pairs


def test_the_head_gets_the_forward_divergence():
    """Teacher (.4, .3, .2, .1): the head, at most half the mass, is the first class alone."""
    t = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    s = torch.tensor([[0.1, 0.4, 0.4, 0.1]], dtype=torch.float64)
    weight = 0.3 / (0.3 + 0.1 + 0.2)
    expected = weight * (t * (t / s).log()).sum() + (1 - weight) * (s * (s / t).log()).sum()
    torch.testing.assert_close(AdaptiveKL()(s.log(), t.log()), expected)


def test_the_likeliest_class_is_in_the_head_whatever_its_mass():
    t, s = (torch.tensor([row], dtype=torch.float64) for row in ([0.7, 0.2, 0.1], [0.2, 0.5, 0.3]))
    expected = 0.5 * (t * (t / s).log()).sum() + 0.5 * (s * (s / t).log()).sum()
    torch.testing.assert_close(AdaptiveKL()(s.log(), t.log()), expected)


def test_a_mass_that_is_reached_exactly_is_in_the_head():
    """Of four classes of 1/4 two make half the mass."""
    t = torch.full((1, 4), 0.25, dtype=torch.float64)
    s = torch.tensor([[0.125, 0.5, 0.25, 0.125]], dtype=torch.float64)
    weight = (0.125 + 0.25) / (0.125 + 0.25 + 0.125)
    expected = weight * (t * (t / s).log()).sum() + (1 - weight) * (s * (s / t).log()).sum()
    torch.testing.assert_close(AdaptiveKL()(s.log(), t.log()), expected)


@given(pairs())
def test_it_lies_between_the_two_divergences(pair):
    value = AdaptiveKL(reduction="none")(*pair[:2])
    both = torch.stack([f(reduction="none")(*pair[:2]) for f in (ForwardKL, ReverseKL)])
    assert bool((value <= both.amax(dim=0) + 1e-12).all()) and bool((value >= both.amin(dim=0) - 1e-12).all())


def test_all_mass_in_the_head_is_the_forward_divergence():
    # Powers of two, whose sums are exact.
    teacher = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()
    student = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()
    torch.testing.assert_close(AdaptiveKL(head_mass=1.0)(student, teacher), ForwardKL()(student, teacher))


@given(pairs())
def test_zero_and_stationary_at_the_teacher(pair):
    assert AdaptiveKL()(pair.logits, pair.logits).item() == 0
    assert gradient(AdaptiveKL(), pair.logits, pair.logits).abs().max() < 1e-12


@given(pairs())
def test_the_weights_are_constants(pair):
    """A gradient between those of the two divergences, with the weight that the value has."""
    forward, reverse = (gradient(f(), *pair[:2]) for f in (ForwardKL, ReverseKL))
    slope = gradient(AdaptiveKL(), *pair[:2])
    values = [f(reduction="none")(*pair[:2]) for f in (AdaptiveKL, ForwardKL, ReverseKL)]
    apart = (values[1] - values[2]).abs() > 1e-3
    weight = ((values[0] - values[2]) / (values[1] - values[2]))[apart, None]
    mixed = weight * forward[apart] + (1 - weight) * reverse[apart]
    torch.testing.assert_close(slope[apart], mixed, rtol=1e-6, atol=1e-9)


def test_a_mass_out_of_range_is_refused():
    with pytest.raises(ValueError, match="^adaptive_kl: head_mass=1.5"):
        AdaptiveKL(head_mass=1.5)
