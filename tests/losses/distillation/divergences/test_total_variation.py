import torch
from hypothesis import given

from lightning_losses.losses import ForwardKL, TotalVariation
from tests.losses.strategies import gradient, pairs


@given(pairs())
def test_gradient_in_closed_form(pair):
    s, t = (z.softmax(dim=-1) for z in pair[:2])
    sign = (s - t).sign() / 2
    expected = s * (sign - (s * sign).sum(dim=-1, keepdim=True)) / len(s)
    torch.testing.assert_close(gradient(TotalVariation(), *pair[:2]), expected)


@given(pairs())
def test_pinsker(pair):
    """It lies in [0, 1], and its square is at most half the divergence."""
    each = TotalVariation(reduction="none")(*pair[:2])
    assert bool((each >= 0).all()) and bool((each <= 1 + 1e-12).all())
    assert bool((each**2 <= ForwardKL(reduction="none")(*pair[:2]) / 2 + 1e-12).all())


@given(pairs())
def test_it_is_symmetric_and_zero_at_the_teacher(pair):
    value = TotalVariation()(pair.logits, pair.teacher_logits)
    torch.testing.assert_close(TotalVariation()(pair.teacher_logits, pair.logits), value)
    assert TotalVariation()(pair.logits, pair.logits).item() == 0
    assert bool((gradient(TotalVariation(), pair.logits, pair.logits) == 0).all())


def test_it_is_one_where_nothing_overlaps():
    assert TotalVariation()(torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])).item() == 1


@given(pairs())
def test_tau_squared(pair):
    torch.testing.assert_close(
        TotalVariation(temperature=3.0, tau_squared=True)(*pair[:2]), 9 * TotalVariation(temperature=3.0)(*pair[:2])
    )
