import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import OFAKD, CrossEntropy
from tests.losses.strategies import gradient, one_hot, pairs


@given(pairs(), st.floats(0, 3), st.floats(0.5, 5))
def test_gradient_in_closed_form(pair, gamma, temperature):
    s, t = ((z / temperature).softmax(dim=-1) for z in pair[:2])
    label = one_hot(pair.target, t)
    weight = (t + label) ** gamma - label
    expected = (weight.sum(dim=-1, keepdim=True) * s - weight) / (temperature * len(s))
    torch.testing.assert_close(gradient(OFAKD(gamma, temperature), *pair), expected)


@given(pairs())
def test_gamma_one_is_cross_entropy_to_the_teacher(pair):
    expected = CrossEntropy()(pair.logits, pair.teacher_logits.softmax(dim=-1))
    torch.testing.assert_close(OFAKD(gamma=1.0)(*pair), expected)


@given(pairs(), st.floats(1.01, 3))
def test_gamma_shifts_weight_to_the_label(pair, gamma):
    """The slope by log s is the weight: larger on the label, smaller elsewhere, never below 0."""
    t = pair.teacher_logits.softmax(dim=-1)
    label = one_hot(pair.target, t).bool()
    weight = (t + label) ** gamma - label.double()
    assert bool((weight >= 0).all())
    assert bool((weight[label] >= t[label]).all()) and bool((weight[~label] <= t[~label]).all())
    expected = -(weight * pair.logits.log_softmax(dim=-1)).sum(dim=-1).mean()
    torch.testing.assert_close(OFAKD(gamma=gamma)(*pair), expected)


@given(pairs())
def test_one_hot_probabilities_are_class_indices(pair):
    label = one_hot(pair.target, pair.logits)
    torch.testing.assert_close(OFAKD()(pair.logits, pair.teacher_logits, label), OFAKD()(*pair))


def test_negative_gamma_is_refused():
    with pytest.raises(ValueError, match="^ofa_kd: gamma=-1"):
        OFAKD(gamma=-1)
