"""StableMax against its definition, cross-entropy of its scores, and extreme logits."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.losses import StableMaxCrossEntropy
from lightning_losses.losses.classification.stablemax_cross_entropy import log_stablemax, stablemax_scores

TARGET = torch.tensor([0, 2, 1, 1])


def batch(scale=3.0):
    return torch.randn(4, 3, dtype=torch.float64) * scale


def definition(logits):
    return torch.where(logits >= 0, logits + 1, 1 / (1 - logits))


def test_probabilities_are_those_of_the_definition():
    logits = batch()
    s = definition(logits)
    torch.testing.assert_close(log_stablemax(logits).exp(), s / s.sum(-1, keepdim=True))


@given(scale=st.sampled_from([1e-3, 1.0, 1e4]), reduction=st.sampled_from(["mean", "sum", "none"]))
def test_is_cross_entropy_of_its_scores(scale, reduction):
    logits = batch(scale)
    got = StableMaxCrossEntropy(label_smoothing=0.1, reduction=reduction)(logits, TARGET)
    want = F.cross_entropy(stablemax_scores(logits), TARGET, label_smoothing=0.1, reduction=reduction)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("z", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_scores_have_slope_one_over_one_plus_size(z, dtype):
    logit = torch.tensor(z, dtype=dtype, requires_grad=True)
    stablemax_scores(logit).backward()
    assert logit.grad.item() == 1 / (1 + abs(z))


def test_gradient_is_the_closed_form():
    logits = batch().requires_grad_()
    StableMaxCrossEntropy()(logits, TARGET).backward()
    one_hot = F.one_hot(TARGET, 3)
    want = (log_stablemax(logits).exp() - one_hot) / (1 + logits.abs()) / len(logits)
    torch.testing.assert_close(logits.grad, want.detach())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_masked_classes_are_as_if_absent(smoothing):
    loss, logits = StableMaxCrossEntropy(label_smoothing=smoothing), batch()
    wider = F.pad(logits, (0, 2), value=-torch.inf).requires_grad_()
    torch.testing.assert_close(loss(wider, TARGET), loss(logits, TARGET))
    soft = F.one_hot(TARGET, 3).double()
    torch.testing.assert_close(loss(wider, F.pad(soft, (0, 2))), loss(logits, TARGET))
    loss(wider, TARGET).backward()
    assert bool(torch.isfinite(wider.grad).all()) and bool((wider.grad[:, 3:] == 0).all())


def test_uniform_targets_ask_for_no_masked_class():
    logits = batch()
    logits[:, 2] = -torch.inf
    loss = StableMaxCrossEntropy(label_smoothing=1.0)
    torch.testing.assert_close(loss(logits, torch.full((4,), 2)), loss(logits, TARGET.clamp(max=1)))


def test_gradcheck():
    logits = batch().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: StableMaxCrossEntropy(reduction="none")(z, TARGET), logits)


def test_is_not_shift_invariant():
    logits = batch()
    assert abs(StableMaxCrossEntropy()(logits, TARGET) - StableMaxCrossEntropy()(logits + 5, TARGET)) > 1e-3


def test_a_confident_row_keeps_a_loss_that_falls_like_one_over_its_margin():
    margin = torch.tensor([1e3, 1e6, 1e9], dtype=torch.float64)
    logits = torch.stack([margin, torch.zeros(3, dtype=torch.float64)], dim=-1)
    loss = StableMaxCrossEntropy(reduction="none")(logits, torch.zeros(3, dtype=torch.int64))
    # -log((M + 1) / (M + 2)) = 1/M to first order; the rest is of order 1/M**2.
    torch.testing.assert_close(loss * margin, torch.ones(3, dtype=torch.float64), rtol=2e-3, atol=0)
    assert F.cross_entropy(torch.tensor([[20.0, 0.0]]), torch.tensor([0])) == 0


@pytest.mark.parametrize("compute_dtype", ["float32", "float64"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_extreme_logits_have_finite_values_and_gradients(dtype, compute_dtype):
    size = min(torch.finfo(dtype).max, 1e30)
    logits = torch.tensor([[size, -size, 0.0], [-size, size, 1.0], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = StableMaxCrossEntropy(compute_dtype=compute_dtype)(logits, torch.tensor([0, 0, 2]))
    loss.backward()
    assert loss.dtype == getattr(torch, compute_dtype)
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_masked_classes_count_for_nothing():
    logits = batch()
    masked = torch.cat([logits, torch.full((4, 1), -torch.inf, dtype=torch.float64)], dim=-1).requires_grad_()
    loss = StableMaxCrossEntropy()(masked, TARGET)
    loss.backward()
    torch.testing.assert_close(loss, StableMaxCrossEntropy()(logits, TARGET))
    assert masked.grad.isfinite().all() and (masked.grad[:, 3] == 0).all()
    soft = F.one_hot(TARGET, 4).double()
    torch.testing.assert_close(StableMaxCrossEntropy()(masked, soft), loss)


def test_ignored_rows_are_as_deleted_and_all_ignored_is_zero():
    logits = batch()
    target = torch.tensor([0, -100, 1, -100])
    torch.testing.assert_close(
        StableMaxCrossEntropy()(logits, target), StableMaxCrossEntropy()(logits[::2], target[::2])
    )
    logits.requires_grad_()
    loss = StableMaxCrossEntropy()(logits, torch.full((4,), -100))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_an_empty_batch_is_zero():
    assert StableMaxCrossEntropy()(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == 0


@pytest.mark.parametrize("wrong", [{"compute_dtype": "float16"}, {"label_smoothing": 2.0}, {"reduction": "most"}])
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StableMaxCrossEntropy(**wrong)(batch(), TARGET)
