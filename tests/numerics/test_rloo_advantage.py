"""Advantages over the others of a prompt, against their definition."""

import statistics

import pytest
import torch

from lightning_losses.numerics.rloo_advantage import rloo_advantage

NAN = float("nan")


def drawn(rows=12, seed=0):
    return torch.randn(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_reward_less_the_mean_of_the_others():
    rewards = drawn()
    found = rloo_advantage(rewards, group_size=4).tolist()
    for row, reward in enumerate(rewards.tolist()):
        others = [other for place, other in enumerate(rewards.tolist()) if place // 4 == row // 4 and place != row]
        assert found[row] == pytest.approx(reward - statistics.fmean(others))


def test_of_two_it_is_their_difference_and_a_group_adds_up_to_0():
    rewards = drawn()
    pairs = rewards.view(6, 2)
    torch.testing.assert_close(rloo_advantage(rewards, group_size=2).view(6, 2)[:, 0], pairs[:, 0] - pairs[:, 1])
    assert rloo_advantage(rewards, group_size=4).view(3, 4).sum(1).abs().max() < 1e-12


def test_rewards_are_clipped_then_lose_the_kl():
    rewards, kl = drawn(), drawn(seed=1)
    found = rloo_advantage(rewards, group_size=4, reward_clip=(-0.5, 0.5), kl=kl, beta=0.2)
    torch.testing.assert_close(found, rloo_advantage(rewards.clamp(-0.5, 0.5) - 0.2 * kl, group_size=4))


def test_they_are_normalised_over_the_batch_if_asked():
    plain = rloo_advantage(drawn(), group_size=4)
    found = rloo_advantage(drawn(), group_size=4, normalize=True)
    torch.testing.assert_close(found, (plain - plain.mean()) / (plain.std() + 1e-4))


@pytest.mark.parametrize(("singleton", "expected"), [("zero", 0.0), ("raw", 2.0)])
def test_a_single_completion_gets_nothing_or_its_reward(singleton, expected):
    found = rloo_advantage(torch.tensor([2.0, 1.0, 0.0]), index=torch.tensor([5, 1, 1]), singleton=singleton)
    assert found.tolist() == [expected, 1.0, -1.0]


@pytest.mark.parametrize("normalize", [False, True])
def test_equal_rewards_have_none_and_what_cannot_be_scored_is_left_out(normalize):
    assert bool((rloo_advantage(torch.full((7,), 0.7), group_size=7, normalize=normalize) == 0).all())
    rewards = torch.tensor([1.0, NAN, 0.0, 0.5, NAN, NAN, 3.0, NAN])
    found = rloo_advantage(rewards, group_size=4)
    torch.testing.assert_close(found[[0, 2, 3]], rloo_advantage(rewards[[0, 2, 3]], group_size=3))
    assert bool((found[[1, 4, 5, 6, 7]] == 0).all())


def test_infinite_rewards_are_refused_or_clipped():
    rewards = torch.tensor([torch.inf, 0.0])
    with pytest.raises(ValueError, match="^rloo_advantage: infinite rewards came"):
        rloo_advantage(rewards, group_size=2)
    assert rloo_advantage(rewards, group_size=2, reward_clip=(-1.0, 1.0)).tolist() == [1.0, -1.0]


def test_a_clip_that_falls_is_refused():
    with pytest.raises(ValueError, match="^rloo_advantage: a clip from 1 to -1 came; give the lower number first"):
        rloo_advantage(torch.arange(4.0), group_size=2, reward_clip=(1, -1))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"^rloo_advantage: rewards of shape \[2, 1\] came"):
        rloo_advantage(torch.zeros(2, 1), group_size=2)
    with pytest.raises(ValueError, match=r"^rloo_advantage: rewards of shape \[2\] with kl of \[2, 3\] came"):
        rloo_advantage(torch.zeros(2), group_size=2, kl=torch.zeros(2, 3))
