import math

import torch

from lightning_losses.losses import DPO, BCOPair
from tests.losses.preference.pairs import direct, examples, mean, numbers, sigmoid


def test_value_from_the_definition():
    values = examples()
    expected = [
        -math.log(sigmoid(0.3 * pair.chosen)) - math.log(sigmoid(-0.3 * pair.rejected)) for pair in numbers(values)
    ]
    torch.testing.assert_close(BCOPair(0.3)(**values), mean(expected))


def test_it_bounds_dpo():
    values = examples(seed=3)
    assert bool((BCOPair(0.3, reduction="none")(**values) >= DPO(0.3, reduction="none")(**values)).all())


def test_unlike_dpo_it_sees_where_both_completions_are():
    both_up, both_down = direct(4.0, 2.0), direct(-2.0, -4.0)
    torch.testing.assert_close(DPO()(**both_up), DPO()(**both_down))
    assert BCOPair()(**direct(1.0, -1.0)) < min(BCOPair()(**both_up), BCOPair()(**both_down))
