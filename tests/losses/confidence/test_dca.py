import torch

from lightning_losses.losses import DCA
from tests.losses.confidence.cases import confidences, sample


def test_it_is_mean_confidence_against_accuracy():
    logits, target = sample()
    confidence, correct = confidences(logits, target)
    torch.testing.assert_close(DCA()(logits, target), (confidence.mean() - correct.mean()).abs())


def test_it_vanishes_where_they_agree():
    probabilities = torch.tensor([[0.75, 0.25]], dtype=torch.float64).repeat(4, 1)
    assert DCA()(probabilities.log(), torch.tensor([0, 0, 0, 1])) < 1e-15


def test_overconfidence_is_pushed_down_and_underconfidence_up():
    logits = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    wrong, right = (torch.autograd.grad(DCA()(logits, torch.tensor([t])), logits)[0][0, 0] for t in (1, 0))
    assert wrong > 0 > right
