import math

import torch

from lightning_losses.losses import DPO, DPONorm
from tests.losses.preference.pairs import direct, examples, mean, numbers, sigmoid


def test_value_from_the_definition():
    values = examples()
    expected = [-math.log(sigmoid(5.0 * (pair.chosen_mean - pair.rejected_mean))) for pair in numbers(values)]
    torch.testing.assert_close(DPONorm(5.0)(**values), mean(expected))


def test_of_single_tokens_it_is_dpo():
    torch.testing.assert_close(DPONorm(0.3)(**direct(2.0)), DPO(0.3)(**direct(2.0)))


def test_saying_it_twice_changes_nothing():
    values = examples()
    twice = {name: torch.cat([value, value], dim=1) for name, value in values.items()}
    torch.testing.assert_close(DPONorm(2.0)(**twice), DPONorm(2.0)(**values))
    assert not torch.isclose(DPO(2.0)(**twice), DPO(2.0)(**values))
