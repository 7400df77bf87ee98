import pytest
import torch

from lightning_losses.losses import SoftTopKLoss
from lightning_losses.numerics.soft_topk import soft_topk

LOGITS = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[1, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])


def test_value_from_the_definition():
    chosen = soft_topk(LOGITS, 2, alpha=3.0)
    expected = [-(row[labels == 1].log()).mean() for row, labels in zip(chosen[:2], LABELS[:2], strict=True)]
    value = SoftTopKLoss(2, alpha=3.0, reduction="none")(LOGITS, LABELS)
    torch.testing.assert_close(value, torch.stack([*expected, torch.zeros_like(expected[0])]))


def test_the_order_above_the_threshold_is_free():
    """What is safely among the k largest has no slope of its own, however far above the others it is."""
    logits = torch.tensor([[40.0, 20.0, -20.0, -40.0]], dtype=torch.float64, requires_grad=True)
    value = SoftTopKLoss(2)(logits, torch.tensor([[1, 1, 0, 0]]))
    (slope,) = torch.autograd.grad(value, logits)
    assert 0 <= value < 1e-8 and slope.abs().max() < 1e-8


def test_as_many_labels_as_k_are_refused():
    with pytest.raises(ValueError, match="^soft_topk_loss: k=6 came with 6 labels; give a k below the number of labe"):
        SoftTopKLoss(6)(LOGITS, LABELS)


def test_labels_that_are_not_known_are_not_among_the_k():
    unknown = LABELS.index_fill(1, torch.tensor([3]), -100)
    others = torch.tensor([0, 1, 2, 4, 5])
    torch.testing.assert_close(SoftTopKLoss(2)(LOGITS, unknown), SoftTopKLoss(2)(LOGITS[:, others], LABELS[:, others]))
    # No more than k are known: all of them are within.
    few = unknown.index_fill(1, others[2:], -100)
    assert SoftTopKLoss(2)(LOGITS, few) == 0
