import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import AdaFocal, Focal, FocalAdaptive
from tests.losses.confidence.cases import sample


def inverse_focal():
    loss = AdaFocal()
    loss.gammas.neg_()
    return loss


def test_gamma_zero_is_cross_entropy():
    logits, target = sample()
    torch.testing.assert_close(Focal(gamma=0.0)(logits, target), F.cross_entropy(logits, target))


def test_it_is_weighted_cross_entropy():
    logits, target = sample()
    each = F.cross_entropy(logits, target, reduction="none")
    expected = (1 - torch.exp(-each)) ** 2 * each
    torch.testing.assert_close(Focal(gamma=2.0, reduction="none")(logits, target), expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_certain_samples_are_exact(gamma):
    """1 - p by subtraction would lose six of the digits."""
    surprise = torch.tensor([1e-10], dtype=torch.float64)
    expected = (-math.expm1(-1e-10)) ** gamma * 1e-10
    assert Focal(gamma=gamma).of_cross_entropy(surprise).item() == pytest.approx(expected, rel=1e-12, abs=0)


def test_a_probability_that_rounds_to_1_has_a_finite_slope():
    logits = torch.tensor([[1e4, 0.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(Focal(gamma=0.5)(logits, torch.tensor([0])), logits)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize(
    "loss",
    [Focal(), FocalAdaptive(), AdaFocal(), inverse_focal()],
    ids=["focal", "focal_adaptive", "adafocal", "inverse"],
)
def test_a_target_that_is_masked_is_infinite_and_pulled_as_by_cross_entropy(loss):
    """The weight is 1 where p is 0, and flat."""
    logits = torch.tensor([[0.0, -torch.inf, 1.0]], dtype=torch.float64, requires_grad=True)
    value = loss(logits, torch.tensor([1]))
    (slope,) = torch.autograd.grad(value, logits)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([1])), logits)
    assert value == torch.inf
    torch.testing.assert_close(slope, expected)


def test_bad_gamma_is_refused():
    with pytest.raises(ValueError, match="focal: gamma=-1"):
        Focal(gamma=-1)


def test_a_target_of_probabilities_is_refused():
    logits, _ = sample()
    with pytest.raises(ValueError, match="focal: a target of probabilities"):
        Focal()(logits, logits.softmax(-1))
