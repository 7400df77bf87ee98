import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import ForwardKL, KLTop
from tests.losses.strategies import gradient, pairs


@given(pairs(), st.booleans())
def test_all_classes_are_the_whole_divergence(pair, tail):
    whole = ForwardKL(reduction="none")(*pair[:2])
    for k in (pair.logits.shape[-1], 1000):
        torch.testing.assert_close(KLTop(k=k, tail_bucket=tail, reduction="none")(*pair[:2]), whole)


@given(pairs(), st.floats(0.5, 4), st.booleans())
def test_the_temperature_s_square(pair, temperature, tail):
    plain, squared = (KLTop(2, tail, temperature, tau_squared)(*pair[:2]) for tau_squared in (False, True))
    torch.testing.assert_close(squared, temperature**2 * plain)


@given(pairs(min_classes=3), st.integers(2, 3))
def test_the_other_classes_are_not_seen(pair, k):
    rest = torch.ones_like(pair.logits, dtype=torch.bool).scatter(-1, pair.teacher_logits.topk(k).indices, False)
    assert bool((gradient(KLTop(k), *pair[:2])[rest] == 0).all())
    moved = pair.logits.masked_fill(rest, 3.0), pair.teacher_logits.masked_fill(rest, -100.0)
    torch.testing.assert_close(KLTop(k=k)(*moved), KLTop(k=k)(*pair[:2]))


@given(pairs(min_classes=3), st.integers(1, 3))
def test_with_the_tail_it_is_a_lower_bound(pair, k):
    bound = KLTop(k=k, tail_bucket=True, reduction="none")(*pair[:2])
    assert bool((bound <= ForwardKL(reduction="none")(*pair[:2]) + 1e-12).all())
    assert bool((bound >= -1e-12).all())


def test_one_class_alone_is_refused():
    with pytest.raises(ValueError, match="^kl_top: k=1 came, .* tail_bucket=True"):
        KLTop(1)
    assert KLTop(1, tail_bucket=True)(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])).item() > 0


@pytest.mark.parametrize("k", [0, -1, 2.0])
def test_a_bad_k_is_refused(k):
    with pytest.raises(ValueError, match=f"^kl_top: k={k}"):
        KLTop(k)
