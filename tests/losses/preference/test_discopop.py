import math

import pytest
import torch

from lightning_losses.losses import DiscoPOP
from tests.losses.preference.pairs import direct, examples, mean, numbers, sigmoid


def test_value_from_the_definition():
    values, expected = examples(), []
    for pair in numbers(values):
        logit = 0.3 * (pair.chosen - pair.rejected)
        share = sigmoid(logit / 0.5)
        expected.append(-(1 - share) * math.log(sigmoid(logit)) + share * math.exp(-logit))
    torch.testing.assert_close(DiscoPOP(0.3, 0.5)(**values), mean(expected))


def test_it_is_not_convex():
    # Down to a local minimum, up to a local maximum, and down again.
    values = [DiscoPOP(1.0)(**direct(margin)).item() for margin in (-1.0, -0.1186, 0.0720, 1.0)]
    assert values[0] > values[1] < values[2] > values[3]


@pytest.mark.parametrize("margin", [-1e6, 1e6])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_exponential_does_not_overflow(margin, temperature):
    values = {name: value.float() for name, value in direct(margin).items()}
    leaf = values["chosen_logps"].requires_grad_()
    value = DiscoPOP(1.0, temperature)(**values)
    assert bool(torch.isfinite(value)) and bool(torch.isfinite(torch.autograd.grad(value, leaf)[0]).all())


def test_a_temperature_above_1_is_refused():
    with pytest.raises(ValueError, match=r"^discopop: temperature=1.5 came; give a number above 0 and at most 1"):
        DiscoPOP(temperature=1.5)
