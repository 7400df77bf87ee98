import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import PSKD, CrossEntropy
from lightning_losses.losses.distillation.self_taught.pskd import pskd_target
from tests.losses.strategies import gradient, one_hot, pairs

shares = st.floats(0.0, 1.0)

# Below, the second tensor of a pair makes the past prediction.


@given(pairs(), shares, shares)
def test_gradient_is_prediction_less_target(pair, alpha, progress):
    past = pair.teacher_logits.softmax(dim=-1)
    target = pskd_target(pair.target, past, alpha * progress)
    expected = (pair.logits.softmax(dim=-1) - target) / len(past)
    slope = gradient(lambda z: PSKD(alpha=alpha)(z, pair.target, past, progress), pair.logits)
    torch.testing.assert_close(slope, expected)


@given(pairs(), shares)
def test_targets_sum_to_one(pair, weight):
    target = pskd_target(pair.target, pair.teacher_logits.softmax(dim=-1), weight)
    torch.testing.assert_close(target.sum(dim=-1), torch.ones(len(target), dtype=target.dtype))


@given(pairs(), shares)
def test_the_label_as_past_is_cross_entropy(pair, progress):
    """So is a sample's first epoch, and alpha = 0 throughout."""
    expected = CrossEntropy()(pair.logits, pair.target)
    unseen = one_hot(pair.target, pair.logits)
    torch.testing.assert_close(PSKD()(pair.logits, pair.target, unseen, progress), expected)
    past = pair.teacher_logits.softmax(dim=-1)
    torch.testing.assert_close(PSKD(alpha=0.0)(pair.logits, pair.target, past, progress), expected)


@given(pairs())
def test_mixed_labels_are_mixed_further(pair):
    label, past = one_hot(pair.target, pair.logits), pair.teacher_logits.softmax(dim=-1)
    torch.testing.assert_close(PSKD()(pair.logits, label, past, 0.5), PSKD()(pair.logits, pair.target, past, 0.5))


@given(pairs())
def test_progress_may_be_a_tensor(pair):
    past = pair.teacher_logits.softmax(dim=-1)
    assert torch.equal(
        PSKD()(pair.logits, pair.target, past, torch.tensor(0.5, dtype=torch.float64)),
        PSKD()(pair.logits, pair.target, past, 0.5),
    )


@pytest.mark.parametrize("progress", [-0.1, 1.1, "half", torch.tensor(1.1)])
def test_progress_out_of_range_is_refused(progress):
    with pytest.raises(ValueError, match="^pskd: epoch_progress(=| holds 1.1; )"):
        PSKD()(torch.zeros(1, 2), torch.tensor([0]), torch.ones(1, 2) / 2, progress)


def test_past_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"^pskd: past_probabilities of shape \[2, 3\].*\[1, 3\]"):
        PSKD()(torch.zeros(1, 3), torch.tensor([0]), torch.ones(2, 3) / 3, 0.5)


def test_alpha_out_of_range_is_refused():
    with pytest.raises(ValueError, match="^pskd: alpha=1.5"):
        PSKD(alpha=1.5)
