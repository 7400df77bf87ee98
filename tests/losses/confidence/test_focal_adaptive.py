import math

import pytest
import torch
import torch.nn.functional as F
from scipy.special import lambertw

from lightning_losses.losses import Focal, FocalAdaptive
from lightning_losses.losses.confidence.focal_adaptive import gamma_that_balances
from tests.losses.confidence.cases import sample


def test_the_exponent_depends_on_the_probability_of_the_target():
    logits, target = sample(40)
    low = logits.softmax(-1).gather(-1, target.unsqueeze(-1))[:, 0] < 0.2
    assert 0 < low.sum() < 40
    expected = torch.where(low, *(Focal(gamma=g, reduction="none")(logits, target) for g in (5.0, 3.0)))
    torch.testing.assert_close(FocalAdaptive(reduction="none")(logits, target), expected)


def test_equal_exponents_are_focal_loss():
    logits, target = sample()
    torch.testing.assert_close(FocalAdaptive((3.0, 3.0))(logits, target), Focal(gamma=3.0)(logits, target))


def test_exponents_are_not_rounded_to_float32():
    logits, target = sample(40)
    low = logits.softmax(-1).gather(-1, target.unsqueeze(-1))[:, 0] < 0.2
    expected = torch.where(low, *(Focal(gamma=g, reduction="none")(logits, target) for g in (4.85, 3.07)))
    values = FocalAdaptive((4.85, 3.07), reduction="none")(logits, target)
    torch.testing.assert_close(values, expected, rtol=1e-14, atol=0)


def test_on_the_threshold_the_second_exponent_holds():
    logits, target = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0])
    torch.testing.assert_close(FocalAdaptive(threshold=0.5)(logits, target), Focal(gamma=3.0)(logits, target))


@pytest.mark.parametrize("options", [{"gammas": (5.0,)}, {"gammas": (5.0, -1.0)}, {"threshold": 1.5}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"focal_adaptive: {next(iter(options))}="):
        FocalAdaptive(**options)


@pytest.mark.parametrize("probability", [1e-6, 0.01, 0.1, 0.2, 0.25, 0.4, 0.49])
def test_the_exponent_that_balances_gives_cross_entropys_gradient(probability):
    gamma = gamma_that_balances(probability)
    p = torch.tensor([probability], dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], -1).requires_grad_()
    target = torch.tensor([0])
    (focal,) = torch.autograd.grad(Focal(gamma=gamma)(logits, target), logits)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, target), logits)
    torch.testing.assert_close(focal, plain, rtol=1e-7, atol=0)
    assert gamma > 0


def test_the_exponent_that_balances_is_that_of_lamberts_function():
    p = 0.2
    power = (1 - p) / (p * math.log(p))
    other = power + lambertw(-((1 - p) ** (1 - power)) * math.log(1 - p) / (p * math.log(p)), -1).real / math.log(1 - p)
    assert gamma_that_balances(p) == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize("probability", [0.0, 0.5, 0.7, 1.0, float("nan")])
def test_no_exponent_balances_other_probabilities(probability):
    with pytest.raises(ValueError, match="gamma_that_balances: probability="):
        gamma_that_balances(probability)
