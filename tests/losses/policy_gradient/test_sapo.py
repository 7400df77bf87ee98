"""Soft adaptive policy optimisation, against its definition."""

import math

import pytest
import torch

from lightning_losses.losses import SAPO, PPOClip
from tests.losses.policy_gradient.batches import assert_equal, batch, by_token, slopes


@pytest.mark.parametrize(("positive", "negative"), [(1.0, 1.05), (0.5, 3.0)])
def test_it_is_a_sigmoid_of_the_ratio(positive, negative):
    values = batch()

    def cost(log_ratio, advantage, _):
        tau = positive if advantage > 0 else negative
        return -advantage * 4 / tau / (1 + math.exp(-tau * (math.exp(log_ratio) - 1)))

    assert_equal(SAPO(positive, negative)(**values), by_token(values, cost, "seq_mean"))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_its_gradient_is_the_ratios_times_a_squared_hyperbolic_secant(tau, sign):
    log_ratios = torch.linspace(-3, 2, 31, dtype=torch.float64).unsqueeze(0)
    values = {
        "logps": log_ratios,
        "old_logps": torch.zeros_like(log_ratios),
        "advantages": torch.tensor([sign]).double(),
    }
    ratio = log_ratios.exp()
    secant = 1 / torch.cosh(tau * (ratio - 1) / 2)
    torch.testing.assert_close(slopes(SAPO(tau, tau), values), -sign * ratio * secant.square() / 31)
    assert bool((slopes(SAPO(tau, tau), values) != 0).all())


def test_on_its_own_samples_its_gradient_is_ppos():
    values = batch()
    del values["old_logps"]
    torch.testing.assert_close(slopes(SAPO(), values), slopes(PPOClip(aggregation="seq_mean"), values))


@pytest.mark.parametrize("by", [800.0, -800.0])
def test_it_is_finite_far_away(by):
    values = {
        "logps": torch.tensor([[by]]),
        "old_logps": torch.zeros(1, 1),
        "advantages": torch.ones(1),
    }
    assert bool(SAPO()(**values).isfinite()) and slopes(SAPO(), values).item() == 0
