"""REINFORCE leave-one-out, against its definition and the exact gradient of a bandit."""

import itertools
import math

import pytest
import torch

from lightning_losses.losses import RLOO
from lightning_losses.numerics.rloo_advantage import rloo_advantage
from tests.losses.policy_gradient.batches import assert_equal, batch, by_completion, clipped, slopes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.1, 0.3)])
def test_it_clips_the_ratio_of_whole_completions(low, high, seed):
    values = batch(seed, drift=0.1)
    value = RLOO(epsilon_low=low, epsilon_high=high)(**values)
    assert_equal(value, by_completion(values, lambda ratios, a: clipped(sum(ratios), a, low, high)))


def test_on_its_own_samples_no_length_divides_the_gradient():
    values = batch()
    del values["old_logps"]
    expected = -values["advantages"].unsqueeze(1) * values["completion_mask"] / 6
    torch.testing.assert_close(slopes(RLOO(), values), expected)


@pytest.mark.parametrize("size", [2, 3])
def test_the_mean_of_its_gradient_over_all_groups_is_the_gradient_of_the_expected_reward(size):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, dtype=torch.float64, generator=generator).requires_grad_()
    rewards = torch.randn(5, dtype=torch.float64, generator=generator)
    (exact,) = torch.autograd.grad(-(logits.softmax(0) * rewards).sum(), logits)
    total = torch.zeros(5, dtype=torch.float64)
    # Every group that can be drawn, with its probability.
    for drawn in itertools.product(range(5), repeat=size):
        chosen = torch.tensor(drawn)
        logps = logits.log_softmax(0)[chosen].unsqueeze(1)
        value = RLOO()(logps, rloo_advantage(rewards[chosen], group_size=size))
        total += logps.detach().sum().exp() * torch.autograd.grad(value, logits)[0]
    torch.testing.assert_close(total, exact)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_long_completions_do_not_overflow(sign):
    logps = -torch.rand(1, 4000, generator=torch.Generator().manual_seed(0))
    values = {"logps": logps, "old_logps": logps - 0.5, "advantages": torch.tensor([sign])}
    assert bool(RLOO()(**values).isfinite()) and bool((slopes(RLOO(), values) == 0).all())


def test_an_empty_completion_is_left_out_or_counted():
    values = batch(drift=0.1)
    values["completion_mask"][2] = False
    without = {name: torch.cat([tensor[:2], tensor[3:]]) for name, tensor in values.items()}
    torch.testing.assert_close(RLOO()(**values), RLOO()(**without))
    torch.testing.assert_close(RLOO(count_empty=True)(**values), RLOO()(**without) * 5 / 6)


def test_the_share_that_is_clipped_is_one_of_completions():
    values = {
        "logps": torch.tensor([[math.log(2.0), 0.0], [math.log(0.5), 0.0], [0.0, 0.0]]),
        "old_logps": torch.zeros(3, 2),
        "advantages": torch.tensor([1.0, -1.0, 1.0]),
    }
    found = RLOO().metrics(**values)
    assert [round(found[name].item(), 4) for name in ("clip_low", "clip_high", "clip_region")] == [
        0.3333,
        0.3333,
        0.6667,
    ]


def test_advantages_of_tokens_are_refused():
    values = batch()
    with pytest.raises(ValueError, match=r"^rloo: advantages of shape \[6, 5\] came; give one of each completion"):
        RLOO()(**{**values, "advantages": torch.zeros(6, 5)})
