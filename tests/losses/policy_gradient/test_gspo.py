"""Group sequence policy optimisation, against its definition."""

import math

import pytest
import torch

from lightning_losses.losses import GRPO, GSPO
from tests.losses.policy_gradient.batches import assert_equal, batch, by_completion, clipped, slopes


@pytest.mark.parametrize("aggregation", ["seq_mean", "token_mean", "seq_sum"])
@pytest.mark.parametrize("level", ["sequence", "sequence_token"])
def test_it_clips_the_geometric_mean(level, aggregation):
    values = batch()
    loss = GSPO(level, epsilon_low=0.1, epsilon_high=0.15, aggregation=aggregation)

    def cost(ratios, advantage):
        return clipped(math.fsum(ratios) / len(ratios), advantage, 0.1, 0.15)

    assert_equal(loss(**values), by_completion(values, cost, aggregation))


@pytest.mark.parametrize("aggregation", ["seq_mean", "token_mean", "seq_sum"])
def test_both_levels_have_one_gradient_where_advantages_are_a_completions(aggregation):
    values = batch()
    whole, each = (
        slopes(GSPO(level, epsilon_low=0.1, epsilon_high=0.15, aggregation=aggregation), values)
        for level in ("sequence", "sequence_token")
    )
    assert bool((whole != 0).any())
    torch.testing.assert_close(whole, each)


def test_the_gradient_of_a_token_is_its_own_at_the_level_of_tokens():
    values = batch(drift=0.01)
    values["advantages"] = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    kept = values["completion_mask"]
    drift = (values["logps"] - values["old_logps"]).masked_fill(~kept, 0.0)
    ratio = (drift.sum(1) / kept.sum(1)).exp().unsqueeze(1)
    expected = -(values["advantages"] * ratio).masked_fill(~kept, 0.0) / kept.sum(1, keepdim=True) / 6
    torch.testing.assert_close(slopes(GSPO("sequence_token", epsilon_low=0.5, epsilon_high=0.5), values), expected)


def test_a_completion_is_clipped_as_a_whole():
    values = batch()
    slope = slopes(GSPO(), values)
    for row, kept in zip(slope, values["completion_mask"], strict=True):
        assert bool((row[kept] == 0).all()) or bool((row[kept] != 0).all())
    assert bool((slope == 0).all(1).any()) and bool((slope != 0).any())


def test_only_the_mean_of_a_completions_log_ratios_matters():
    values = batch()
    kept = values["completion_mask"]
    drift = (values["logps"] - values["old_logps"]).masked_fill(~kept, 0.0)
    even = values["old_logps"] + drift.sum(1, keepdim=True) / kept.sum(1, keepdim=True)
    torch.testing.assert_close(GSPO()(**{**values, "logps": even}), GSPO()(**values))


def test_with_one_token_it_is_grpo():
    values = {**batch(tokens=1, lengths=(1,) * 6)}
    options = {"epsilon_low": 0.2, "epsilon_high": 0.28}
    torch.testing.assert_close(GSPO(**options)(**values), GRPO(**options)(**values))


def test_advantages_of_tokens_need_the_level_of_tokens():
    values = {**batch(), "advantages": torch.zeros(6, 5)}
    assert GSPO("sequence_token")(**values) == 0
    with pytest.raises(ValueError, match=r"^gspo: advantages of shape \[6, 5\] came"):
        GSPO()(**values)


def test_the_spread_of_log_ratios_falls_with_the_length():
    """Independent noise of tokens averages out: why the range is so much narrower than a token's."""
    noise = 0.3 * torch.randn(2000, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shares = {}
    for width in (1, 100):
        values = {
            "logps": noise[:, :width],
            "old_logps": torch.zeros(2000, width).double(),
            "advantages": torch.ones(2000).double(),
        }
        shares[width] = [
            loss.metrics(**values)["clip_high"].item()
            for loss in (GSPO(epsilon_low=0.2, epsilon_high=0.2), GRPO(epsilon_low=0.2, epsilon_high=0.2))
        ]
    # A normal number of standard deviation 0.3 is above log 1.2 in 27.2 % of the draws.
    assert abs(shares[1][0] - 0.272) < 0.03 and abs(shares[100][1] - 0.272) < 0.03 and shares[100][0] == 0
