"""REINFORCE++'s advantages, against loops over tokens."""

import pytest
import torch

from lightning_losses.numerics.reinforce_pp_advantage import reinforce_pp_advantage, reinforce_pp_baseline_advantage

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1]])


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
def test_returns_begin_anew_behind_a_hole_and_are_whitened_over_the_batch(gamma):
    rewards, kept = drawn(3, 4), MASK != 0
    found = reinforce_pp_advantage(rewards, MASK, gamma=gamma)
    expected = torch.zeros(3, 4).double()
    for row in range(3):
        running = 0.0
        for place in reversed(range(4)):
            running = rewards[row, place].item() + gamma * running if kept[row, place] else 0.0
            expected[row, place] = running
    torch.testing.assert_close(found.returns, expected)
    own = expected[kept]
    torch.testing.assert_close(found.advantages[kept], (own - own.mean()) / (own.var() + 1e-8).sqrt())
    assert bool((found.advantages[~kept] == 0).all())


def test_a_positive_scale_and_an_offset_of_the_returns_change_nothing():
    rewards = torch.zeros(3, 4).double()
    # The score at the last token, so that a token's return is its completion's score.
    rewards[torch.arange(3), torch.tensor([3, 1, 3])] = torch.tensor([1.0, 0.0, 5.0]).double()
    moved = rewards.clone()
    moved[torch.arange(3), torch.tensor([3, 1, 3])] = torch.tensor([7.0, 5.0, 15.0]).double()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
    torch.testing.assert_close(
        reinforce_pp_advantage(moved, mask).advantages, reinforce_pp_advantage(rewards, mask).advantages, rtol=1e-7,
        atol=1e-7,
    )  # fmt: skip


def test_long_completions_rule_the_mean():
    mask = torch.tensor([[1] * 8, [1] + [0] * 7])
    found = reinforce_pp_baseline_advantage(torch.tensor([1.0, 0.0]), mask, group_size=2)
    assert found[mask != 0].mean().abs() < 1e-6
    assert found[:, 0].mean() < -0.5


def test_with_a_baseline_it_is_the_centred_reward_over_the_tokens():
    rewards, index = drawn(3), torch.tensor([0, 1, 0])
    centred = torch.stack([rewards[0] - rewards[[0, 2]].mean(), rewards[1], rewards[2] - rewards[[0, 2]].mean()])
    own = centred.unsqueeze(1).expand(3, 4)[MASK != 0]
    found = reinforce_pp_baseline_advantage(rewards, MASK, index=index)
    torch.testing.assert_close(found[MASK != 0], (own - own.mean()) / (own.var() + 1e-8).sqrt())


def test_equal_returns_one_token_and_none_are_0():
    assert bool((reinforce_pp_advantage(torch.zeros(2, 3)).advantages == 0).all())
    one = torch.tensor([[1, 0, 0], [0, 0, 0]])
    assert bool((reinforce_pp_advantage(torch.ones(2, 3), one).advantages == 0).all())
    assert bool((reinforce_pp_advantage(torch.full((2, 3), torch.nan), 0 * one).advantages == 0).all())
    assert bool((reinforce_pp_baseline_advantage(torch.ones(4), torch.ones(4, 2), group_size=2) == 0).all())


def test_a_discount_above_1_is_refused():
    with pytest.raises(ValueError, match="^reinforce_pp_advantage: gamma=1.1 came; give a number at least 0"):
        reinforce_pp_advantage(torch.zeros(2, 3), gamma=1.1)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"^reinforce_pp_baseline_advantage: completion_mask of shape \[2\] came"):
        reinforce_pp_baseline_advantage(torch.zeros(2), torch.zeros(2), group_size=2)
    with pytest.raises(ValueError, match=r"^reinforce_pp_advantage: .*mask of shape \[2\]"):
        reinforce_pp_advantage(torch.zeros(2, 3), torch.zeros(2))
