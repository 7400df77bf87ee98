import math

import torch
import torch.nn.functional as F

from lightning_losses.losses import SphericalZLoss
from tests.losses.classification.cases import CLASSES, ROWS, others, own, sample, slope


def test_value_and_gradient_from_the_definition():
    logits, target = sample()
    deviation = logits.std(-1, unbiased=False, keepdim=True)
    standardised = (logits - logits.mean(-1, keepdim=True)) / deviation
    distance = own(standardised, target)
    loss = SphericalZLoss(a=0.7, b=1.5, epsilon=1e-15, reduction="none")
    torch.testing.assert_close(loss(logits, target), ((1 + (0.7 * (1.5 - distance[:, 0])).exp()).log() / 0.7))
    pull = -torch.sigmoid(0.7 * (1.5 - distance))
    expected = pull * (1 - others(target) - 1 / CLASSES - standardised * distance / CLASSES) / deviation
    torch.testing.assert_close(slope(loss, logits, target), expected)


def test_shift_and_scale_of_the_logits_mean_nothing():
    logits, target = sample()
    loss = SphericalZLoss(epsilon=1e-15)
    torch.testing.assert_close(loss(3 * logits - 7, target), loss(logits, target))
    pull = slope(loss, logits, target)
    zeros = torch.zeros(ROWS, dtype=torch.float64)
    torch.testing.assert_close(pull.sum(-1), zeros)
    torch.testing.assert_close((pull * logits).sum(-1), zeros)


def test_the_most_that_a_target_can_reach():
    logits = F.one_hot(torch.tensor([2]), CLASSES).double()
    value = SphericalZLoss(a=1.0, b=math.sqrt(CLASSES - 1), epsilon=1e-15)(logits, torch.tensor([2]))
    torch.testing.assert_close(value.item(), math.log(2))


def test_equal_logits_are_finite_and_a_masked_class_is_as_if_absent():
    logits, target = sample()
    loss = SphericalZLoss()
    torch.testing.assert_close(loss(F.pad(logits, (0, 2), value=-torch.inf), target), loss(logits, target))
    assert slope(loss, torch.zeros(2, CLASSES), torch.tensor([0, 1])).isfinite().all()
