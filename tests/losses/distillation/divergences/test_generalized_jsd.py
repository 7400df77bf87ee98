import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import ForwardKL, GeneralizedJSD, ReverseKL
from tests.losses.strategies import gradient, pairs


@given(pairs(), st.floats(0.01, 0.99))
def test_value_from_probabilities(pair, beta):
    s, t = (z.softmax(dim=-1) for z in pair[:2])
    m = beta * t + (1 - beta) * s
    expected = beta * (t * (t / m).log()).sum(dim=-1) + (1 - beta) * (s * (s / m).log()).sum(dim=-1)
    torch.testing.assert_close(GeneralizedJSD(beta=beta)(*pair[:2]), expected.mean())


@given(pairs())
def test_half_is_symmetric_and_at_most_log_two(pair):
    each = GeneralizedJSD(reduction="none")(*pair[:2])
    torch.testing.assert_close(GeneralizedJSD(reduction="none")(pair.teacher_logits, pair.logits), each)
    assert bool((each <= math.log(2) + 1e-12).all())


@given(pairs())
def test_the_ends_are_the_two_divergences(pair):
    assert torch.equal(GeneralizedJSD(beta=0.0)(*pair[:2]), ForwardKL()(*pair[:2]))
    assert torch.equal(GeneralizedJSD(beta=1.0)(*pair[:2]), ReverseKL()(*pair[:2]))


@given(pairs(max_scale=2.0))
def test_over_beta_it_tends_to_the_forward_divergence(pair):
    beta = 1e-6
    # The next term is smaller by beta times the largest ratio of probabilities.
    torch.testing.assert_close(
        GeneralizedJSD(beta=beta)(*pair[:2]) / beta, ForwardKL()(*pair[:2]), rtol=1e-2, atol=1e-3
    )


@given(pairs(), st.floats(0.05, 0.95))
def test_zero_and_stationary_at_the_teacher(pair, beta):
    assert abs(GeneralizedJSD(beta=beta)(pair.logits, pair.logits).item()) < 1e-14
    assert gradient(GeneralizedJSD(beta), pair.logits, pair.logits).abs().max() < 1e-14


def test_a_class_that_only_one_network_has_is_compared():
    """Masked by -inf in one network: its mass still meets the mixture, beta or 1 - beta of it."""
    student, teacher = torch.tensor([[0.0, -torch.inf]]), torch.tensor([[-torch.inf, 0.0]])
    torch.testing.assert_close(GeneralizedJSD(0.5)(student, teacher), torch.tensor(math.log(2)))


@given(pairs())
def test_tau_squared(pair):
    torch.testing.assert_close(
        GeneralizedJSD(temperature=3.0, tau_squared=True)(*pair[:2]), 9 * GeneralizedJSD(temperature=3.0)(*pair[:2])
    )


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_beta_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match=f"^generalized_jsd: beta={beta}"):
        GeneralizedJSD(beta)
