"""PPO's clipped surrogate, against its definition."""

import math

import pytest
import torch

from lightning_losses.losses import PPOClip
from tests.losses.policy_gradient.batches import assert_equal, batch, by_token, clipped, slopes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("low", "high"), [(0.2, None), (0.1, 0.3), (1.0, 0.0)])
def test_it_is_the_papers_formula(low, high, seed):
    values = batch(seed)
    value = PPOClip(epsilon_low=low, epsilon_high=high)(**values)
    assert_equal(value, by_token(values, lambda r, a, _: clipped(r, a, low, low if high is None else high)))


@pytest.mark.parametrize("cap", [1.05, 1.5])
def test_a_dual_clip_bounds_what_a_bad_token_costs(cap):
    values = batch(drift=1.0)

    def cost(log_ratio, advantage, _):
        value = clipped(log_ratio, advantage)
        return min(value, -cap * advantage) if advantage < 0 else value

    assert_equal(PPOClip(cap)(**values), by_token(values, cost))
    assert PPOClip(cap)(**values) < PPOClip()(**values)


def test_the_gradient_is_minus_the_ratio_times_the_advantage_within_the_range_and_0_beyond():
    ratios = torch.tensor([[0.5, 0.9, 1.1, 1.5]], dtype=torch.float64)
    for advantage, moved in ((2.0, [0.5, 0.9, 1.1, 0.0]), (-2.0, [0.0, 0.9, 1.1, 1.5])):
        values = {
            "logps": ratios.log(),
            "old_logps": torch.zeros(1, 4).double(),
            "advantages": torch.tensor([advantage]).double(),
        }
        expected = -advantage * torch.tensor([moved], dtype=torch.float64) / 4
        torch.testing.assert_close(slopes(PPOClip(), values), expected)


def test_on_its_own_samples_the_value_is_minus_the_mean_advantage_and_the_gradient_is_reinforces():
    values = batch()
    del values["old_logps"]
    weights = values["completion_mask"].double() / values["completion_mask"].sum()
    expected = -(weights * values["advantages"].unsqueeze(1))
    assert_equal(PPOClip()(**values), expected.sum().item())
    # Both branches are equal there: the gradient counts once.
    torch.testing.assert_close(slopes(PPOClip(), values), expected)


def test_a_wide_range_is_importance_weighting():
    values = batch()
    value = PPOClip(epsilon_low=1.0, epsilon_high=1e6)(**values)
    assert_equal(value, by_token(values, lambda r, a, _: -math.exp(r) * a))


def test_a_scale_of_the_advantages_is_one_of_the_loss():
    values = batch()
    scaled = {**values, "advantages": 3 * values["advantages"]}
    torch.testing.assert_close(PPOClip()(**scaled), 3 * PPOClip()(**values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("by", [800.0, -800.0, -torch.inf])
def test_ratios_that_would_overflow_are_finite_without_a_gradient(by, sign, dtype):
    values = {
        "logps": torch.tensor([[-1.0 + by, -1.0]], dtype=dtype),
        "old_logps": torch.full((1, 2), -1.0, dtype=dtype),
        "advantages": torch.tensor([sign], dtype=dtype),
    }
    assert bool(PPOClip()(**values).isfinite())
    slope = slopes(PPOClip(), values)
    assert slope[0, 0] == 0 and slope[0, 1] == -sign / 2


def test_a_dual_clip_of_1_or_less_is_refused():
    with pytest.raises(ValueError, match="^ppo_clip: dual_clip=1.0 came"):
        PPOClip(1.0)
