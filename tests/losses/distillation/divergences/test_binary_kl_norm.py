import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import BinaryKLNorm
from tests.losses.strategies import gradient, pairs


@given(pairs(), st.floats(0.5, 5))
def test_gradient_in_closed_form(pair, temperature):
    difference = pair.logits - pair.teacher_logits
    expected = temperature / 2 * torch.tanh(difference / (2 * temperature)) / len(difference)
    torch.testing.assert_close(gradient(BinaryKLNorm(temperature), *pair[:2]), expected)


@given(pairs(max_scale=2.0), st.floats(1.0, 5))
def test_it_is_a_divergence_of_fair_coins(pair, temperature):
    p = torch.sigmoid((pair.logits - pair.teacher_logits) / temperature)
    divergence = 0.5 * (0.5 / p).log() + 0.5 * (0.5 / (1 - p)).log()
    expected = temperature**2 * divergence.sum(dim=-1).mean()
    torch.testing.assert_close(BinaryKLNorm(temperature=temperature)(*pair[:2]), expected)


@given(pairs())
def test_near_the_teacher_it_is_a_squared_distance(pair):
    value = BinaryKLNorm()(pair.logits, pair.logits + 1e-3 * pair.teacher_logits)
    expected = (1e-3 * pair.teacher_logits).square().sum(dim=-1).mean() / 8
    # The next term is smaller by difference².
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-14)


@given(pairs(), st.floats(0.5, 5))
def test_it_sees_the_shift_of_the_logits(pair, shift):
    assert BinaryKLNorm()(pair.logits, pair.logits).abs().item() < 1e-14
    assert BinaryKLNorm()(pair.logits + shift, pair.logits).item() > 0.01


def test_far_from_the_teacher_it_is_finite_in_float32():
    """Where the authors' form is infinite: a difference of 80."""
    value = BinaryKLNorm(2.0)(torch.tensor([[80.0]]), torch.tensor([[0.0]]))
    torch.testing.assert_close(value, torch.tensor(4 * (20 - 0.6931472)))
