import torch
import torch.nn.functional as F

from lightning_losses.losses import CorrectnessAware
from tests.losses.confidence.cases import confidences, sample


def test_it_is_the_squared_distance_from_correctness():
    logits, target = sample()
    confidence, correct = confidences(logits, target)
    torch.testing.assert_close(CorrectnessAware()(logits, target), (confidence - correct).square().mean())


def test_balanced_both_kinds_count_alike():
    logits, target = sample()
    confidence, correct = confidences(logits, target)
    error = (confidence - correct).square()
    expected = (error[correct == 1].mean() + error[correct == 0].mean()) / 2
    torch.testing.assert_close(CorrectnessAware(balanced=True)(logits, target), expected)


def test_balanced_of_one_kind_is_plain():
    logits, _ = sample()
    for target in (logits.argmax(-1), logits.argmin(-1)):
        torch.testing.assert_close(CorrectnessAware(balanced=True)(logits, target), CorrectnessAware()(logits, target))


def test_it_softens_a_narrow_mistake_that_cross_entropy_sharpens():
    logits, target = torch.tensor([[1.0, 0.9, 0.0, 0.0]], dtype=torch.float64), torch.tensor([1])
    inverse = torch.ones((), dtype=torch.float64, requires_grad=True)
    aware = torch.autograd.grad(CorrectnessAware()(inverse * logits, target), inverse)[0]
    entropy = torch.autograd.grad(F.cross_entropy(inverse * logits, target), inverse)[0]
    # A positive slope by the inverse temperature softens, a negative one sharpens.
    assert aware > 0 > entropy


def test_it_sharpens_what_is_right():
    logits, target = torch.tensor([[1.0, 0.9]], dtype=torch.float64), torch.tensor([0])
    inverse = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(CorrectnessAware()(inverse * logits, target), inverse)[0] < 0
