import pytest
import torch
from hypothesis import given

from lightning_losses.losses import ForwardKL, ReverseKL, SymmetricKL
from tests.losses.strategies import pairs


@given(pairs())
def test_the_ends_are_the_two_divergences(pair):
    torch.testing.assert_close(SymmetricKL(reverse_weight=0.0)(*pair[:2]), ForwardKL()(*pair[:2]))
    torch.testing.assert_close(SymmetricKL(reverse_weight=1.0)(*pair[:2]), ReverseKL()(*pair[:2]))


@given(pairs())
def test_half_is_symmetric(pair):
    value = SymmetricKL(reverse_weight=0.5)(pair.logits, pair.teacher_logits)
    torch.testing.assert_close(SymmetricKL(reverse_weight=0.5)(pair.teacher_logits, pair.logits), value)


@given(pairs())
def test_zero_at_the_teacher_alone(pair):
    assert SymmetricKL()(pair.logits, pair.logits).item() == 0
    assert SymmetricKL()(*pair[:2]).item() > 0


@given(pairs())
def test_tau_squared(pair):
    torch.testing.assert_close(
        SymmetricKL(temperature=3.0, tau_squared=True)(*pair[:2]), 9 * SymmetricKL(temperature=3.0)(*pair[:2])
    )


def test_a_weight_out_of_range_is_refused():
    with pytest.raises(ValueError, match="^symmetric_kl: reverse_weight=1.5"):
        SymmetricKL(reverse_weight=1.5)
