import math

import pytest
import torch

from lightning_losses.losses import ConfidencePenalty
from tests.losses.confidence.cases import sample


def test_it_is_the_negative_entropy():
    logits, target = sample()
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(ConfidencePenalty(reduction="none")(logits, target), -entropy)


def test_the_target_only_tells_what_is_ignored():
    logits, target = sample()
    torch.testing.assert_close(ConfidencePenalty()(logits), ConfidencePenalty()(logits, target))


def test_its_range():
    assert ConfidencePenalty()(torch.tensor([[1e4, 0.0]])) == 0
    assert float(ConfidencePenalty()(torch.zeros(1, 7))) == pytest.approx(-math.log(7))
