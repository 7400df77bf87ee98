"""Geometric-mean policy optimisation, against its definition."""

import math

import pytest
import torch

from lightning_losses.losses import GMPO, GSPO
from tests.losses.policy_gradient.batches import assert_equal, batch, by_completion, slopes


@pytest.mark.parametrize(("low", "high"), [(0.4, None), (0.1, 0.5), (1.0, 0.0)])
def test_tokens_are_clipped_before_the_geometric_mean(low, high):
    values = batch()

    def cost(ratios, advantage):
        sign = math.copysign(1.0, advantage)
        ends = [min(max(ratio, -low), low if high is None else high) for ratio in ratios]
        held = [sign * min(sign * ratio, sign * end) for ratio, end in zip(ratios, ends, strict=True)]
        return -advantage * math.exp(math.fsum(held) / len(held))

    assert_equal(GMPO(epsilon_low=low, epsilon_high=high)(**values), by_completion(values, cost))


def test_a_token_that_is_clipped_has_no_gradient_and_the_others_share_the_ratio():
    values = {
        "logps": torch.tensor([[1.0, 0.1]], dtype=torch.float64),
        "old_logps": torch.zeros(1, 2).double(),
        "advantages": torch.ones(1).double(),
    }
    expected = torch.tensor([[0.0, -math.exp((0.4 + 0.1) / 2) / 2]], dtype=torch.float64)
    torch.testing.assert_close(slopes(GMPO(), values), expected)
    assert GMPO().metrics(**values)["clip_high"] == 0.5


def test_where_nothing_is_clipped_it_is_gspo():
    values = batch(drift=0.01)
    torch.testing.assert_close(GMPO()(**values), GSPO(epsilon_low=0.4, epsilon_high=0.5)(**values))


def test_one_large_ratio_moves_it_less_than_the_mean_of_ratios():
    values = {**batch(drift=0.0), "advantages": -torch.ones(6, dtype=torch.float64)}
    values["logps"] = values["logps"].clone()
    values["logps"][0, 0] += 3
    arithmetic = (values["logps"] - values["old_logps"]).exp()[0].mean()
    assert 1 < GMPO()(**{name: tensor[:1] for name, tensor in values.items()}) < arithmetic
