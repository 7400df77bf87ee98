import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import ABDivergence, ForwardKL, ReverseKL
from tests.losses.strategies import gradient, pairs

exponents = st.floats(0.05, 2.0)


@given(pairs(), exponents, exponents)
def test_value_from_probabilities(pair, alpha, beta):
    s, t = (z.softmax(dim=-1) for z in pair[:2])
    total = alpha + beta
    terms = t**alpha * s**beta - alpha / total * t**total - beta / total * s**total
    expected = -terms.sum(dim=-1).mean() / (alpha * beta)
    torch.testing.assert_close(ABDivergence(alpha=alpha, beta=beta)(*pair[:2]), expected)


@given(pairs())
def test_limits_with_a_name(pair):
    torch.testing.assert_close(ABDivergence(alpha=1.0, beta=0.0)(*pair[:2]), ForwardKL()(*pair[:2]))
    torch.testing.assert_close(ABDivergence(alpha=0.0, beta=1.0)(*pair[:2]), ReverseKL()(*pair[:2]))
    log_s, log_t = (z.log_softmax(dim=-1) for z in pair[:2])
    expected = (log_s - log_t).square().sum(dim=-1).mean() / 2
    torch.testing.assert_close(ABDivergence(alpha=0.0, beta=0.0)(*pair[:2]), expected)


@given(pairs(max_scale=2.0), exponents)
def test_limits_are_limits(pair, other):
    """An exponent of 1e-6 is as good as 0, up to its size times log-probabilities."""
    for at, near in [((0.0, other), (1e-6, other)), ((other, 0.0), (other, 1e-6))]:
        exact, close = (ABDivergence(alpha=a, beta=b)(*pair[:2]) for a, b in (at, near))
        torch.testing.assert_close(close, exact, rtol=1e-3, atol=1e-4)


@given(pairs(), st.floats(0, 2), st.floats(0, 2))
def test_zero_and_stationary_at_the_teacher(pair, alpha, beta):
    assert abs(ABDivergence(alpha=alpha, beta=beta)(pair.logits, pair.logits).item()) < 1e-9
    assert gradient(ABDivergence(alpha, beta), pair.logits, pair.logits).abs().max() < 1e-9
    assert ABDivergence(alpha=alpha, beta=beta)(*pair[:2]).item() > 0


@given(pairs(max_scale=2.0), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
def test_every_exponent_has_a_value(pair, alpha, beta):
    """By the general formula; 1e-3 from a limit its terms cancel to about 1e-6 of their size."""
    if min(abs(alpha), abs(beta), abs(alpha + beta)) < 1e-3:
        return
    log_s, log_t = (z.log_softmax(dim=-1) for z in pair[:2])
    total = alpha + beta
    terms = [
        (alpha * log_t + beta * log_s).exp(),
        -alpha / total * (total * log_t).exp(),
        -beta / total * (total * log_s).exp(),
    ]
    expected = -sum(terms).sum(dim=-1).mean() / (alpha * beta)
    found = ABDivergence(alpha=alpha, beta=beta)(*pair[:2])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert found.item() > 0


@given(pairs(max_scale=2.0), st.floats(0.1, 1.5), st.booleans())
def test_opposite_exponents_are_a_limit(pair, alpha, swapped):
    alpha = -alpha if swapped else alpha
    exact, close = (ABDivergence(alpha=alpha, beta=b)(*pair[:2]) for b in (-alpha, -alpha + 1e-6))
    torch.testing.assert_close(close, exact, rtol=1e-3, atol=1e-4)
    assert abs(ABDivergence(alpha=alpha, beta=-alpha)(pair.logits, pair.logits).item()) < 1e-9


@pytest.mark.parametrize("bad", [float("nan"), "much"])
def test_an_exponent_that_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match=f"^ab_divergence: beta={bad!r} came; give a (finite )?number"):
        ABDivergence(beta=bad)
