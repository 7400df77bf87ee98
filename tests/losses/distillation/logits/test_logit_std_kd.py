import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import KD, LogitStdKD
from lightning_losses.losses.distillation.logits.logit_std_kd import standardize_logits
from tests.losses.strategies import gradient, pairs


@given(pairs(), st.floats(0.1, 20), st.floats(-30, 30))
def test_scale_and_shift_of_the_student_do_not_matter(pair, scale, shift):
    moved = LogitStdKD()(scale * pair.logits + shift, pair.teacher_logits)
    # Up to eps / deviation.
    torch.testing.assert_close(moved, LogitStdKD()(pair.logits, pair.teacher_logits), rtol=1e-3, atol=1e-4)


@given(pairs(min_classes=3))
def test_the_gradient_is_orthogonal_to_shift_and_scale(pair):
    slope = gradient(LogitStdKD(eps=0.0), pair.logits, pair.teacher_logits)
    centred = pair.logits - pair.logits.mean(dim=-1, keepdim=True)
    zero = torch.zeros(len(slope), dtype=slope.dtype)
    torch.testing.assert_close(slope.sum(dim=-1), zero, rtol=0, atol=1e-10)
    torch.testing.assert_close((slope * centred).sum(dim=-1), zero, rtol=0, atol=1e-10)


@given(pairs())
def test_it_is_kd_of_standardised_logits(pair):
    expected = KD(2.0)(standardize_logits(pair.logits), standardize_logits(pair.teacher_logits))
    assert torch.equal(LogitStdKD(2.0)(pair.logits, pair.teacher_logits), expected)


@given(pairs(min_classes=3))
def test_standardised_rows_have_mean_zero_and_deviation_one(pair):
    rows = standardize_logits(pair.logits, eps=0.0)
    torch.testing.assert_close(rows.mean(dim=-1), torch.zeros_like(rows[:, 0]), rtol=0, atol=1e-12)
    torch.testing.assert_close(rows.std(dim=-1), torch.ones_like(rows[:, 0]))


@pytest.mark.parametrize("constant, classes", [(3.0, 4), (0.1, 7), (0.1, 100)])
def test_constant_rows_have_a_gradient_of_ordinary_size(constant, classes):
    # The mean of seven 0.1 is rounded.
    student, teacher = torch.full((2, classes), constant), torch.randn(2, classes)
    assert standardize_logits(student).abs().max() < 1e-6
    assert 0 < gradient(LogitStdKD(), student, teacher).abs().max() < 2


def test_masked_classes_do_not_enter_the_statistics():
    logits = torch.randn(3, 5, dtype=torch.float64)
    masked = torch.cat([logits, torch.full((3, 1), -torch.inf, dtype=torch.float64)], dim=-1)
    torch.testing.assert_close(standardize_logits(masked)[:, :5], standardize_logits(logits))
    assert bool(torch.isneginf(standardize_logits(masked)[:, 5]).all())


def test_one_class_is_refused():
    with pytest.raises(ValueError, match=r"^logit_std_kd: logits of shape \[2, 1\].*at least 2 classes"):
        LogitStdKD()(torch.zeros(2, 1), torch.zeros(2, 1))
