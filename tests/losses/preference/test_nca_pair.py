import math

import torch

from lightning_losses.losses import NCAPair
from tests.losses.preference.pairs import direct, examples, mean, numbers, sigmoid


def test_value_from_the_definition():
    values = examples()
    expected = [
        -math.log(sigmoid(0.3 * pair.chosen))
        - 0.5 * math.log(sigmoid(-0.3 * pair.chosen))
        - 0.5 * math.log(sigmoid(-0.3 * pair.rejected))
        for pair in numbers(values)
    ]
    torch.testing.assert_close(NCAPair(0.3)(**values), mean(expected))


def test_the_chosen_completion_has_a_place_to_stay():
    # σ(β r) = 2/3 is least.
    place = math.log(2) / 0.5
    values = direct(place)
    leaf = values["chosen_logps"].requires_grad_()
    assert abs(torch.autograd.grad(NCAPair(0.5)(**values), leaf)[0].item()) < 1e-12
    assert NCAPair(0.5)(**direct(place)) < min(NCAPair(0.5)(**direct(place + step)) for step in (-0.1, 0.1))
