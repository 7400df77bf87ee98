"""Advantages over the completions of a prompt, against their definition."""

import statistics

import pytest
import torch

from lightning_losses.numerics.checks import debug
from lightning_losses.numerics.group_advantage import group_advantage
from tests.losses.test_no_waiting import Waits

NAN = float("nan")


def drawn(rows=12, seed=0):
    return torch.randn(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_it_is_the_difference_from_the_groups_mean(scale):
    rewards = drawn()
    found = group_advantage(rewards, group_size=4, scale=scale, eps=1e-4)
    for group in range(3):
        own = rewards[4 * group : 4 * group + 4].tolist()
        deviation = {
            "group": statistics.stdev(own) + 1e-4,
            "batch": statistics.stdev(rewards.tolist()) + 1e-4,
            "none": 1.0,
        }[scale]
        expected = [(reward - statistics.fmean(own)) / deviation for reward in own]
        assert found[4 * group : 4 * group + 4].tolist() == pytest.approx(expected)


def test_weights_are_those_that_are_written():
    rewards = drawn(24).view(12, 2)
    advantage = group_advantage(rewards, group_size=4, weights=[0.1, 0.7], scale="none")
    total = 0.1 * rewards[:, 0] + 0.7 * rewards[:, 1]
    expected = total.view(3, 4) - total.view(3, 4).mean(1, keepdim=True)
    torch.testing.assert_close(advantage, expected.flatten(), rtol=0, atol=1e-14)


def test_groups_may_be_named_in_any_order():
    rewards, order = drawn(), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    index = torch.tensor([7, -3, 100]).repeat_interleave(4)
    expected = group_advantage(rewards, group_size=4)
    torch.testing.assert_close(group_advantage(rewards[order], index=index[order]), expected[order])


def test_groups_may_be_of_unequal_sizes():
    rewards, index = drawn(6), torch.tensor([1, 0, 1, 1, 0, 1])
    found = group_advantage(rewards, index=index)
    for group in (0, 1):
        own = rewards[index == group]
        torch.testing.assert_close(found[index == group], group_advantage(own, group_size=len(own)))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_group_adds_up_to_0_and_ignores_a_constant(scale):
    rewards = drawn()
    found = group_advantage(rewards, group_size=4, scale=scale)
    assert found.view(3, 4).sum(1).abs().max() < 1e-12
    if scale != "batch":
        moved = rewards + torch.tensor([5.0, -2.0, 0.0], dtype=torch.float64).repeat_interleave(4)
        torch.testing.assert_close(group_advantage(moved, group_size=4, scale=scale), found)


def test_the_scale_of_rewards_is_divided_out_or_stays():
    rewards = drawn()
    for scale, factor in (("group", 1.0), ("none", 3.0)):
        one, three = (group_advantage(r, group_size=4, scale=scale, eps=0.0) for r in (rewards, 3 * rewards))
        torch.testing.assert_close(three, factor * one)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("eps", [1e-4, 1e-9])
def test_equal_rewards_have_no_advantage_at_all(dtype, scale, eps):
    rewards = torch.tensor([0.7] * 7 + [1.0, 0.0, 1.0, 0.3, 0.1, 0.2, 0.9], dtype=dtype)
    found = group_advantage(rewards, group_size=7, scale=scale, eps=eps)
    assert bool((found[:7] == 0).all()) and bool((found[7:] != 0).all())
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_equal_rewards_of_every_function_have_none_either(aggregation):
    rewards = torch.tensor([[0.7, 0.1]] * 7)
    assert bool((group_advantage(rewards, group_size=7, aggregation=aggregation) == 0).all())


@pytest.mark.parametrize(
    ("scale", "singleton", "expected"),
    [("group", "zero", 0.0), ("none", "zero", 0.0), ("group", "raw", 2.0 / 1.5), ("none", "raw", 2.0)],
)
def test_a_single_completion_gets_nothing_or_its_reward(scale, singleton, expected):
    rewards, index = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([5, 1, 1])
    found = group_advantage(rewards, index=index, scale=scale, singleton=singleton, eps=0.5)
    assert found[0].item() == pytest.approx(expected) and found[1] > 0 > found[2]


def test_what_cannot_be_scored_is_left_out_and_gets_0():
    rewards = torch.tensor([1.0, NAN, 0.0, 0.5, NAN, NAN, 3.0, NAN])
    found = group_advantage(rewards, group_size=4)
    torch.testing.assert_close(found[[0, 2, 3]], group_advantage(rewards[[0, 2, 3]], group_size=3))
    assert bool((found[[1, 4, 5, 6, 7]] == 0).all())


def test_functions_are_weighed_and_may_not_apply():
    rewards = torch.tensor([[1.0, 4.0], [NAN, 2.0], [3.0, NAN], [NAN, NAN]])
    total = torch.tensor([1 * 0.5 + 4 * 2, 2 * 2, 3 * 0.5, NAN])
    found = group_advantage(rewards, group_size=4, weights=[0.5, 2.0])
    torch.testing.assert_close(found, group_advantage(total, group_size=4))


@pytest.mark.parametrize("weights", [None, [0.5, 2.0]])
def test_nothing_waits_for_the_device(weights):
    rewards = torch.zeros(6, 2, device="meta")
    with Waits(rewards) as mode:
        group_advantage(rewards, group_size=2, weights=weights)
    assert mode.waits == []


def test_each_function_is_compared_first_if_asked():
    rewards, weights = torch.stack([drawn(8, 1), 10 * drawn(8, 2)], dim=1), [1.0, 0.5]
    each = [group_advantage(column, group_size=4) for column in rewards.unbind(1)]
    total = each[0] + 0.5 * each[1]
    expected = (total - total.mean()) / (total.std() + 1e-4)
    found = group_advantage(rewards, group_size=4, weights=weights, aggregation="normalize_then_sum")
    torch.testing.assert_close(found, expected)


def test_two_completions_are_apart_by_the_square_root_of_2():
    found = group_advantage(torch.tensor([0.0, 10.0], dtype=torch.float64), group_size=2, eps=0.0)
    torch.testing.assert_close(found, torch.tensor([-(0.5**0.5), 0.5**0.5], dtype=torch.float64))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_scaling_weighs_easy_and_hard_prompts_up(share):
    rewards = (torch.arange(1000) < 1000 * share).double()
    scaled, centred = (group_advantage(rewards, group_size=1000, scale=scale) for scale in ("group", "none"))
    ratio = (scaled[0] / centred[0]).item()
    assert ratio == pytest.approx((share * (1 - share)) ** -0.5, rel=1e-2)


@pytest.mark.parametrize("wrong", [float("inf"), float("-inf")])
def test_infinite_rewards_are_refused_where_that_is_free_and_never_hidden(wrong, monkeypatch):
    rewards = torch.tensor([1.0, wrong, 0.0, 1.0])
    with pytest.raises(ValueError, match="^group_advantage: infinite rewards came; give finite ones"):
        group_advantage(rewards, group_size=2)
    monkeypatch.setattr("lightning_losses.numerics.probabilities._read", lambda *_: None)
    found = group_advantage(rewards, group_size=2)
    assert bool(found[:2].isnan().all()) and bool(found[2:].isfinite().all())
    with debug(), pytest.raises(ValueError, match="infinite rewards came"):
        group_advantage(rewards, group_size=2)


def test_huge_rewards_and_no_rewards_are_finite():
    assert bool(group_advantage(torch.tensor([3e38, -3e38, 0.0]), group_size=3).isfinite().all())
    assert group_advantage(torch.zeros(0), group_size=3).shape == (0,)
    assert bool((group_advantage(torch.tensor([1, 0]), group_size=2) != 0).all())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "neither of group_size and index came"),
        ({"group_size": 2, "index": torch.zeros(6).long()}, "both of group_size and index came"),
        ({"group_size": 4}, "group_size=4 came for 6 rows"),
        ({"group_size": 0}, "group_size=0 came for 6 rows"),
        ({"index": torch.zeros(5).long()}, r"index of shape \[5\]"),
        ({"index": torch.zeros(6)}, r"index of shape \[6\] and dtype torch.float32 came"),
        ({"group_size": 2, "weights": [1.0, 2.0]}, "2 weights came for 1 reward functions"),
        ({"group_size": 2, "weights": []}, "0 weights came for 1 reward functions"),
        ({"group_size": 2, "scale": "prompt"}, "scale='prompt' came"),
        ({"group_size": 2, "singleton": "one"}, "singleton='one' came"),
        ({"group_size": 2, "aggregation": "mean"}, "aggregation='mean' came"),
    ],
)
def test_what_does_not_fit_is_refused(options, told):
    with pytest.raises(ValueError, match=f"^group_advantage: {told}"):
        group_advantage(torch.zeros(6), **options)
