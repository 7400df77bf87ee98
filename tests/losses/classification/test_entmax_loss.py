import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import EntmaxLoss
from lightning_losses.numerics.tempered import tempered_log_probabilities
from tests.losses.classification.cases import CLASSES, sample, slope


def entmax(logits, alpha):
    """By bisection of the threshold."""
    low, high = (alpha - 1) * logits.amax(-1, keepdim=True) - 1, (alpha - 1) * logits.amax(-1, keepdim=True)
    for _ in range(100):
        middle = (low + high) / 2
        p = torch.relu((alpha - 1) * logits - middle) ** (1 / (alpha - 1))
        more = p.sum(-1, keepdim=True) > 1
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return p


def entropy(p, alpha):
    return (1 - (p**alpha).sum(-1)) / (alpha * (alpha - 1))


@pytest.mark.parametrize("alpha", [1.2, 1.5, 1.8])
def test_value_and_gradient_from_the_definition(alpha):
    logits, target = sample()
    q = 0.7 * F.one_hot(target, CLASSES).double() + 0.3 / CLASSES
    p, loss = entmax(logits, alpha), EntmaxLoss(alpha=alpha, reduction="none")
    torch.testing.assert_close(tempered_log_probabilities(logits, 2 - alpha).exp(), p)
    expected = ((p - q) * logits).sum(-1) + entropy(p, alpha) - entropy(q, alpha)
    torch.testing.assert_close(loss(logits, q), expected)
    torch.testing.assert_close(slope(loss, logits, q), p - q)


def test_near_alpha_1_it_is_cross_entropy():
    logits, target = sample()
    torch.testing.assert_close(EntmaxLoss(alpha=1 + 1e-9)(logits, target), F.cross_entropy(logits, target))


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
def test_it_is_0_from_a_margin_on(alpha):
    logits = torch.zeros(2, 3, dtype=torch.float64)
    logits[:, 0] = torch.tensor([1.001, 0.999]) / (alpha - 1)
    value = EntmaxLoss(alpha=alpha, reduction="none")(logits, torch.tensor([0, 0]))
    assert value[0] == 0 and value[1] > 0


def test_a_soft_target_that_is_the_prediction_costs_nothing():
    logits, _ = sample()
    p = entmax(logits, 1.5)
    assert (p == 0).any()
    torch.testing.assert_close(EntmaxLoss()(logits, p), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)
