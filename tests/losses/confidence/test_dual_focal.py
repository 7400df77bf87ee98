import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import DualFocal, Focal
from tests.losses.confidence.cases import sample


def test_the_rival_is_the_largest_strictly_below_the_target():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.1, 0.3, 0.6]], dtype=torch.float64)
    target = torch.tensor([1, 0, 0])
    rival = torch.tensor([0.2, 0.2, 0.0], dtype=torch.float64)
    p = probabilities.gather(-1, target.unsqueeze(-1))[:, 0]
    expected = -((1 - p + rival) ** 3) * p.log()
    torch.testing.assert_close(DualFocal(gamma=3.0, reduction="none")(probabilities.log(), target), expected)


def test_without_a_rival_it_is_focal_loss():
    logits, _ = sample()
    lowest = logits.argmin(-1)
    torch.testing.assert_close(DualFocal(gamma=3.0)(logits, lowest), Focal(gamma=3.0)(logits, lowest))


def test_gamma_zero_is_cross_entropy():
    logits, target = sample()
    torch.testing.assert_close(DualFocal(gamma=0.0)(logits, target), F.cross_entropy(logits, target))


def test_the_rival_gets_a_gradient():
    logits = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    dual = torch.autograd.grad(DualFocal(gamma=3.0)(logits, torch.tensor([0])), logits)[0]
    focal = torch.autograd.grad(Focal(gamma=3.0)(logits, torch.tensor([0])), logits)[0]
    assert dual[0, 1] > 2 * focal[0, 1] > 0


def test_bad_gamma_is_refused():
    with pytest.raises(ValueError, match="dual_focal: gamma=-1"):
        DualFocal(gamma=-1)
