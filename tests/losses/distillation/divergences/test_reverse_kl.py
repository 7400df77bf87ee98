import torch
from hypothesis import given

from lightning_losses.losses import ForwardKL, ReverseKL
from tests.losses.strategies import gradient, pairs


@given(pairs())
def test_gradient_in_closed_form(pair):
    log_s, log_t = (z.log_softmax(dim=-1) for z in pair[:2])
    value = (log_s.exp() * (log_s - log_t)).sum(dim=-1, keepdim=True)
    expected = log_s.exp() * (log_s - log_t - value) / len(log_s)
    torch.testing.assert_close(gradient(ReverseKL(), *pair[:2]), expected)


@given(pairs())
def test_it_is_the_forward_divergence_of_swapped_networks(pair):
    torch.testing.assert_close(
        ReverseKL()(pair.logits, pair.teacher_logits), ForwardKL()(pair.teacher_logits, pair.logits)
    )


@given(pairs())
def test_zero_at_the_teacher_alone(pair):
    assert ReverseKL()(pair.logits, pair.logits).item() == 0
    assert ReverseKL()(*pair[:2]).item() > 0


@given(pairs())
def test_tau_squared(pair):
    torch.testing.assert_close(
        ReverseKL(temperature=3.0, tau_squared=True)(*pair[:2]), 9 * ReverseKL(temperature=3.0)(*pair[:2])
    )
