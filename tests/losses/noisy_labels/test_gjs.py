import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import GJS, MAEReduced
from tests.losses.noisy_labels.cases import CLASSES, sample, slope


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_value_from_the_definition(weight):
    logits, target, _ = sample()
    p, label = logits.softmax(-1), F.one_hot(target, CLASSES).double()
    middle = weight * label + (1 - weight) * p
    label_part, prediction_part = (F.kl_div(middle.log(), x, reduction="none").sum(-1) for x in (label, p))
    expected = (weight * label_part + (1 - weight) * prediction_part) / (-(1 - weight) * math.log(1 - weight))
    torch.testing.assert_close(GJS(label_weight=weight, reduction="none")(logits, target), expected)


def test_its_limits_are_cross_entropy_and_mae():
    logits, target, _ = sample()
    torch.testing.assert_close(
        GJS(label_weight=0.001)(logits, target), F.cross_entropy(logits, target), rtol=0.01, atol=0
    )
    torch.testing.assert_close(GJS(label_weight=0.999)(logits, target), MAEReduced()(logits, target), rtol=0.15, atol=0)


def test_single_precision_is_enough_near_the_limits():
    logits, target, _ = sample()
    for weight in (0.001, 0.999):
        loss = GJS(label_weight=weight)
        torch.testing.assert_close(loss(logits.float(), target).double(), loss(logits, target), rtol=1e-5, atol=0)


def test_an_impossible_target_has_the_largest_value():
    logits, target = torch.tensor([[1e4, 0.0], [0.0, -torch.inf]], dtype=torch.float64), torch.tensor([1, 1])
    loss = GJS(label_weight=0.3, reduction="none")
    largest = (0.3 * math.log(0.3) + 0.7 * math.log(0.7)) / (0.7 * math.log(0.7))
    assert loss(logits, target).tolist() == pytest.approx([largest] * 2)
    assert torch.equal(slope(loss, logits, target), torch.zeros(2, 2, dtype=torch.float64))
