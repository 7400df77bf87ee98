"""Cross-entropy by softmax precision: where each collapses, and that the rest is cross-entropy."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import PreciseCrossEntropy

TARGET = torch.tensor([0, 2, 1, 1])


def test_float64_is_cross_entropy():
    logits = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(PreciseCrossEntropy()(logits, TARGET), F.cross_entropy(logits, TARGET))
    soft = torch.rand(4, 3, dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(PreciseCrossEntropy()(logits, soft), F.cross_entropy(logits, soft))


def test_gradcheck():
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: PreciseCrossEntropy(reduction="none")(z, TARGET), logits)


# log-softmax computes log(1 + exp(-gap)); the row is lost where 1 + exp(-gap) rounds to 1, at half a unit in the
# last place.
@pytest.mark.parametrize(("dtype", "gap"), [("float16", 11 * math.log(2)), ("float32", 24 * math.log(2)),
                                            ("float64", 53 * math.log(2))])  # fmt: skip
def test_the_gradient_of_a_confident_row_stops_at_its_precision(dtype, gap):
    def gradient(margin):
        logits = torch.tensor([[margin, 0.0]], dtype=torch.float64, requires_grad=True)
        loss = PreciseCrossEntropy(dtype)(logits, torch.tensor([0]))
        loss.backward()
        return logits.grad[0, 0].item()

    assert gradient(gap + 0.75) == 0
    assert gradient(gap - 1.5) < 0


def test_raising_the_precision_revives_a_collapsed_row():
    logits = torch.tensor([[25.0, 0.0]], requires_grad=True)
    loss = PreciseCrossEntropy()(logits, torch.tensor([0]))
    loss.backward()
    assert loss.dtype == torch.float32
    # The value and gradient are computed in float64 and rounded once.
    assert loss.item() == pytest.approx(math.log1p(math.exp(-25)), rel=1e-6)
    assert logits.grad[0, 0].item() == pytest.approx(-math.exp(-25), rel=1e-6)
    assert PreciseCrossEntropy(softmax_dtype="float32")(logits, torch.tensor([0])) == 0


def test_autocast_does_not_change_the_precision():
    logits = torch.tensor([[10.0, 0.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert PreciseCrossEntropy(softmax_dtype="float16")(logits, torch.tensor([0])) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_large_and_masked_logits_are_finite(dtype):
    logits = torch.tensor([[1e4, -1e4, -torch.inf], [0.0, 1e4, -torch.inf]], dtype=dtype, requires_grad=True)
    loss = PreciseCrossEntropy()(logits, torch.tensor([1, 0]))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_ignored_rows_are_as_deleted():
    logits = torch.randn(4, 3)
    target = torch.tensor([0, -100, 1, -100])
    torch.testing.assert_close(PreciseCrossEntropy()(logits, target), PreciseCrossEntropy()(logits[::2], target[::2]))
    logits.requires_grad_()
    loss = PreciseCrossEntropy()(logits, torch.full((4,), -100))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="softmax_dtype='float8'"):
        PreciseCrossEntropy(softmax_dtype="float8")(torch.zeros(4, 3), TARGET)
