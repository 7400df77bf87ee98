import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import ForwardKL, SkewKL
from tests.losses.strategies import gradient, pairs

skews = st.floats(0.01, 0.99)


@given(pairs(), skews)
def test_value_from_probabilities(pair, skew):
    s, t = (z.softmax(dim=-1) for z in pair[:2])
    mixture = skew * t + (1 - skew) * s
    torch.testing.assert_close(SkewKL(skew=skew)(*pair[:2]), (t * (t / mixture).log()).sum(dim=-1).mean())


@given(pairs(), skews)
def test_it_is_bounded(pair, skew):
    assert bool((SkewKL(skew=skew, reduction="none")(*pair[:2]) <= -math.log(skew) + 1e-12).all())


def test_the_bound_is_reached_where_nothing_overlaps():
    value = SkewKL(0.2)(torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]]))
    torch.testing.assert_close(value, torch.tensor(-math.log(0.2)))


@given(pairs())
def test_without_skew_it_is_the_divergence(pair):
    assert torch.equal(SkewKL(skew=0.0)(*pair[:2]), ForwardKL()(*pair[:2]))
    assert SkewKL(skew=1.0)(*pair[:2]).item() == 0


@given(pairs(), skews)
def test_zero_and_stationary_at_the_teacher(pair, skew):
    assert abs(SkewKL(skew=skew)(pair.logits, pair.logits).item()) < 1e-14
    assert gradient(SkewKL(skew), pair.logits, pair.logits).abs().max() < 1e-14
    assert SkewKL(skew=skew)(*pair[:2]).item() > 0


@given(pairs())
def test_tau_squared(pair):
    value = 9 * SkewKL(temperature=3.0)(*pair[:2])
    torch.testing.assert_close(SkewKL(temperature=3.0, tau_squared=True)(*pair[:2]), value)


@pytest.mark.parametrize("skew", [-0.1, 1.1])
def test_a_skew_out_of_range_is_refused(skew):
    with pytest.raises(ValueError, match=f"^skew_kl: skew={skew}"):
        SkewKL(skew)
