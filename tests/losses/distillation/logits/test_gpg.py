import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import GPG, ForwardKL
from tests.losses.strategies import gradient, one_hot, pairs


@given(pairs(), st.floats(0, 1))
def test_gradient_is_prediction_less_a_mixed_target(pair, alpha):
    s, t = (z.softmax(dim=-1) for z in pair[:2])
    mixed = alpha * t + (1 - alpha) * one_hot(pair.target, s)
    torch.testing.assert_close(gradient(GPG(alpha), *pair), (s - mixed) / len(s))


@given(pairs())
def test_the_ends(pair):
    torch.testing.assert_close(GPG(alpha=0.0)(*pair), F.cross_entropy(pair.logits, pair.target))
    torch.testing.assert_close(GPG(alpha=1.0)(*pair), ForwardKL()(*pair[:2]))


def test_alpha_out_of_range_is_refused():
    with pytest.raises(ValueError, match="^gpg: alpha=-0.1"):
        GPG(alpha=-0.1)
