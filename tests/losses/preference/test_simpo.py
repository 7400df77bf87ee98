import math

import pytest
import torch

from lightning_losses.losses import SimPO
from tests.losses.preference.pairs import examples, mean, numbers, sigmoid


@pytest.mark.parametrize("alpha", [0.0, 0.25, -0.5])
def test_value_from_the_definition(alpha):
    def reward(log_p):
        return (1 - math.exp(log_p) ** -alpha) / alpha if alpha else log_p

    values, expected = examples(reference=False), []
    for pair in numbers(values):
        logit = 2.5 * (reward(pair.chosen_mean) - reward(pair.rejected_mean)) - 0.5
        expected.append(-0.9 * math.log(sigmoid(logit)) - 0.1 * math.log(sigmoid(-logit)))
    torch.testing.assert_close(SimPO(2.5, 0.5, alpha, 0.1)(**values), mean(expected))


def test_near_0_alpha_is_simpo():
    values = examples(reference=False)
    torch.testing.assert_close(SimPO(alpha=1e-9)(**values), SimPO()(**values))


def test_it_takes_no_reference_and_saying_it_twice_changes_nothing():
    values = examples(reference=False)
    twice = {name: torch.cat([value, value], dim=1) for name, value in values.items()}
    torch.testing.assert_close(SimPO()(**twice), SimPO()(**values))
    assert not [name for name in SimPO.inputs() if name.startswith("ref_")]


@pytest.mark.parametrize("alpha", [-2.0, 0.25, 2.0])
def test_unlikely_completions_are_finite(alpha):
    low, high = torch.full((1, 2), -1e4, requires_grad=True), torch.full((1, 2), -1e-4)
    for given in ((low, high), (high, low)):
        value = SimPO(alpha=alpha)(*given)
        assert bool(torch.isfinite(value)) and bool(torch.isfinite(torch.autograd.grad(value, low)[0]).all())
