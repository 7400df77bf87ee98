import torch
import torch.nn.functional as F

from lightning_losses.losses import Brier
from lightning_losses.metrics import brier_score
from tests.losses.confidence.cases import sample


def test_it_is_the_metric():
    logits, target = sample()
    torch.testing.assert_close(Brier()(logits, target), brier_score(logits, target, inputs="logits"))


def test_soft_targets_are_taken_and_reached():
    logits, target = sample()
    torch.testing.assert_close(Brier()(logits, F.one_hot(target, 5).double()), Brier()(logits, target))
    assert Brier()(logits, logits.softmax(-1)) < 1e-30


def test_it_is_bounded():
    logits = torch.tensor([[1e4, 0.0]])
    assert Brier()(logits, torch.tensor([1])) == 2
    assert Brier()(logits, torch.tensor([0])) == 0
