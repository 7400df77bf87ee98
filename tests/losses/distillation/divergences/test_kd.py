import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import KD
from tests.losses.strategies import gradient, one_hot, pairs

temperatures = st.floats(0.5, 10.0)


@given(pairs(), temperatures)
def test_gradient_in_closed_form(pair, temperature):
    s, t = ((z / temperature).softmax(dim=-1) for z in (pair.logits, pair.teacher_logits))
    expected = temperature * (s - t) / len(s)
    torch.testing.assert_close(gradient(KD(temperature), pair.logits, pair.teacher_logits), expected)


@given(pairs(), temperatures, st.floats(-50, 50))
def test_zero_where_logits_differ_by_a_constant(pair, temperature, shift):
    value = KD(temperature=temperature)(pair.logits, pair.logits + shift)
    assert abs(value.item()) < 1e-11  # τ² times rounding in the logits
    assert KD(temperature=temperature)(pair.logits, pair.teacher_logits).item() > 0


@given(pairs(max_scale=1.0))
def test_hot_limit_is_a_squared_distance_of_centred_logits(pair):
    difference = pair.logits - pair.teacher_logits
    difference = difference - difference.mean(dim=-1, keepdim=True)
    expected = difference.square().sum(dim=-1).mean() / (2 * pair.logits.shape[-1])
    # The next term is smaller by logits / τ.
    torch.testing.assert_close(KD(temperature=1e3)(pair.logits, pair.teacher_logits), expected, rtol=1e-2, atol=1e-7)


@given(pairs())
def test_a_one_hot_teacher_is_a_label(pair):
    teacher = one_hot(pair.target, pair.logits) * 1e4
    value = KD(temperature=1.0)(pair.logits, teacher)
    torch.testing.assert_close(value, F.cross_entropy(pair.logits, pair.target))


@given(pairs())
def test_float_targets_ignore_nothing(pair):
    soft = one_hot(pair.target, pair.logits)
    assert torch.equal(KD()(pair.logits, pair.teacher_logits, soft), KD()(pair.logits, pair.teacher_logits))
