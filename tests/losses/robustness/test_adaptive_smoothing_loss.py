import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import AdaptiveSmoothingLoss, CrossEntropy

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(5, 3, dtype=torch.float64, generator=GENERATOR)
GATE = torch.randn(5, dtype=torch.float64, generator=GENERATOR)
TARGET, BELIEVED = torch.tensor([0, 2, 1, -100, 2]), torch.tensor([1.0, 0, 1, 0, 0], dtype=torch.float64)


def test_value_from_the_definition():
    gate = F.binary_cross_entropy_with_logits(GATE, BELIEVED, reduction="none")
    own = F.cross_entropy(LOGITS, TARGET, reduction="none")
    expected = torch.where(TARGET == -100, 0.0, 2 * gate + 3 * own + 4 * gate * own)
    found = AdaptiveSmoothingLoss(2.0, 3.0, 4.0, reduction="none")(LOGITS, TARGET, GATE, BELIEVED)
    torch.testing.assert_close(found, expected)


def test_without_the_gate_it_is_cross_entropy():
    loss = AdaptiveSmoothingLoss(0.0, 1.0, 0.0)
    torch.testing.assert_close(loss(LOGITS, TARGET, GATE, BELIEVED), CrossEntropy()(LOGITS, TARGET))


def test_the_gate_learns_to_believe_what_it_is_told():
    gate = GATE.clone().requires_grad_()
    (slope,) = torch.autograd.grad(AdaptiveSmoothingLoss()(LOGITS, TARGET, gate, BELIEVED), gate)
    assert ((slope < 0) == (BELIEVED == 1))[TARGET != -100].all() and slope[3] == 0


def test_another_number_of_samples_is_refused():
    with pytest.raises(ValueError, match=r"^adaptive_smoothing_loss: gate_target of shape \[4\] came with a target"):
        AdaptiveSmoothingLoss()(LOGITS, TARGET, GATE, BELIEVED[:4])
