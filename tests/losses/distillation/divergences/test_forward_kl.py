import torch
from hypothesis import given

from lightning_losses.losses import KD, ForwardKL
from tests.losses.strategies import gradient, pairs


@given(pairs())
def test_gradient_in_closed_form(pair):
    s, t = (z.softmax(dim=-1) for z in pair[:2])
    torch.testing.assert_close(gradient(ForwardKL(), *pair[:2]), (s - t) / len(s))


@given(pairs())
def test_zero_at_the_teacher_alone(pair):
    assert ForwardKL()(pair.logits, pair.logits).item() == 0
    assert ForwardKL()(*pair[:2]).item() > 0


@given(pairs())
def test_times_tau_squared_it_is_kd(pair):
    assert torch.equal(ForwardKL(temperature=3.0, tau_squared=True)(*pair[:2]), KD(temperature=3.0)(*pair[:2]))
    torch.testing.assert_close(9 * ForwardKL(temperature=3.0)(*pair[:2]), KD(temperature=3.0)(*pair[:2]))


def test_it_grows_where_the_student_misses_the_teacher():
    """Logits 30 apart on one class: the divergence is the gap."""
    value = ForwardKL()(torch.tensor([[0.0, 30.0]]), torch.tensor([[30.0, 0.0]]))
    torch.testing.assert_close(value, torch.tensor(30.0))
