import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import KLTop, forward_kl_loss, kl_top_loss
from tests.losses.strategies import gradient, pairs


@given(pairs(), st.booleans())
def test_all_classes_are_the_whole_divergence(pair, tail):
    whole = forward_kl_loss(*pair[:2], reduction="none")
    for k in (pair.logits.shape[-1], 1000):
        torch.testing.assert_close(kl_top_loss(*pair[:2], k=k, tail_bucket=tail, reduction="none"), whole)


@given(pairs())
def test_one_class_leaves_nothing_to_compare(pair):
    assert kl_top_loss(*pair[:2], k=1).item() == 0
    assert bool((gradient(KLTop(1), *pair[:2]) == 0).all())


@given(pairs(min_classes=3), st.integers(1, 3))
def test_the_other_classes_are_not_seen(pair, k):
    rest = torch.ones_like(pair.logits, dtype=torch.bool).scatter(-1, pair.teacher_logits.topk(k).indices, False)
    assert bool((gradient(KLTop(k), *pair[:2])[rest] == 0).all())
    moved = pair.logits.masked_fill(rest, 3.0), pair.teacher_logits.masked_fill(rest, -100.0)
    torch.testing.assert_close(kl_top_loss(*moved, k=k), kl_top_loss(*pair[:2], k=k))


@given(pairs(min_classes=3), st.integers(1, 3))
def test_with_the_tail_it_is_a_lower_bound(pair, k):
    bound = kl_top_loss(*pair[:2], k=k, tail_bucket=True, reduction="none")
    assert bool((bound <= forward_kl_loss(*pair[:2], reduction="none") + 1e-12).all())
    assert bool((bound >= -1e-12).all())


@pytest.mark.parametrize("k", [0, -1, 2.0])
def test_a_bad_k_is_refused(k):
    with pytest.raises(ValueError, match=f"^kl_top: k={k}"):
        KLTop(k)
