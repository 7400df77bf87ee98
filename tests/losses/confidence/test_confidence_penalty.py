import math

import pytest
import torch

from lightning_losses.losses import confidence_penalty_loss
from tests.losses.confidence.cases import sample


def test_it_is_the_negative_entropy():
    logits, target = sample()
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(confidence_penalty_loss(logits, target, reduction="none"), -entropy)


def test_the_target_only_tells_what_is_ignored():
    logits, target = sample()
    torch.testing.assert_close(confidence_penalty_loss(logits), confidence_penalty_loss(logits, target))


def test_its_range():
    assert confidence_penalty_loss(torch.tensor([[1e4, 0.0]])) == 0
    assert float(confidence_penalty_loss(torch.zeros(1, 7))) == pytest.approx(-math.log(7))
