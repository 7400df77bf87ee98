import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import GCE, CompSum, MAEReduced
from tests.losses.classification.cases import own, sample, slope


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.7, 3.0])
def test_value_from_the_definition(tau):
    logits, target = sample()
    total = (logits - own(logits, target)).exp().sum(-1)
    torch.testing.assert_close(CompSum(tau=tau, reduction="none")(logits, target), (total ** (1 - tau) - 1) / (1 - tau))


def test_its_members_are_known_losses():
    logits, target = sample()
    for tau in (1.0, 1 + 1e-12):
        torch.testing.assert_close(CompSum(tau=tau)(logits, target), F.cross_entropy(logits, target))
    torch.testing.assert_close(CompSum(tau=1.7)(logits, target), GCE(q=0.7)(logits, target))
    torch.testing.assert_close(CompSum(tau=2.0)(logits, target), MAEReduced()(logits, target))


def test_the_larger_tau_the_smaller_the_value():
    logits, target = sample()
    values = torch.stack([CompSum(tau=tau)(logits, target) for tau in (0.0, 0.5, 1.0, 1.5, 2.0)])
    assert (values.diff() < 0).all()


def test_far_off_targets_stay_finite():
    logits, target = torch.tensor([[1e4, 0.0]]), torch.tensor([1])
    loss = CompSum(tau=0.0)
    assert loss(logits, target).isfinite() and slope(loss, logits, target).isfinite().all()
