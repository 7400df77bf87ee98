import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import DKD, KD
from lightning_losses.losses.distillation.logits.dkd import dkd_parts
from tests.losses.strategies import gradient, pairs

temperatures = st.floats(0.5, 8.0)


@given(pairs(), temperatures)
def test_the_parts_make_up_the_whole_divergence(pair, temperature):
    """Target part + (1 - t_y) other part = KL(t || s), row by row."""
    parts = dkd_parts(*pair, temperature)
    t_y = (pair.teacher_logits / temperature).softmax(dim=-1).gather(-1, pair.target[:, None]).squeeze(-1)
    whole = KD(temperature=temperature, reduction="none")(pair.logits, pair.teacher_logits) / temperature**2
    torch.testing.assert_close(parts.target_class + (1 - t_y) * parts.non_target_class, whole)


@given(pairs(), temperatures)
def test_two_classes_have_no_others(pair, temperature):
    parts = dkd_parts(pair.logits[:, :2], pair.teacher_logits[:, :2], pair.target.clamp(max=1), temperature)
    assert bool((parts.non_target_class == 0).all())


@given(pairs(), st.floats(-20, 20))
def test_the_other_classes_do_not_see_the_target(pair, shift):
    moved = pair.logits.scatter_add(-1, pair.target[:, None], torch.full_like(pair.logits[:, :1], shift))
    loss = DKD(alpha=0.0, temperature=2.0)
    torch.testing.assert_close(loss(moved, *pair[1:]), loss(*pair))
    own = gradient(loss, *pair).gather(-1, pair.target[:, None])
    assert bool((own == 0).all())


@given(pairs())
def test_zero_and_stationary_at_the_teacher(pair):
    value = DKD()(pair.logits, pair.logits, pair.target)
    assert abs(value.item()) < 1e-11
    assert gradient(DKD(), pair.logits, pair.logits, pair.target).abs().max() < 1e-11


def test_one_class_is_refused():
    with pytest.raises(ValueError, match=r"^dkd: logits of shape \[2, 1\].*at least 2 classes"):
        DKD()(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("option", ["alpha", "beta"])
def test_negative_weights_are_refused(option):
    with pytest.raises(ValueError, match=f"^dkd: {option}=-1"):
        DKD(**{option: -1})
