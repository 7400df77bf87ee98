"""Generalised advantage estimation and its rewards, against loops over tokens."""

import pytest
import torch

from lightning_losses.numerics.gae import gae, kl_shaped_reward
from lightning_losses.numerics.token_returns import backward_recursion, whiten

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0]])


def drawn(seed=0, shape=(4, 5)):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_loop(rewards, values, gamma, lam):
    """Of one completion without holes."""
    advantages, ahead, behind = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        ahead = reward + gamma * behind - value + gamma * lam * ahead
        behind = value
        advantages.insert(0, ahead)
    return advantages


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 0.0), (0.7, 1.0)])
def test_tokens_that_are_skipped_are_as_if_absent(gamma, lam):
    rewards, values, kept = drawn(), drawn(1), MASK != 0
    found = gae(rewards, values, MASK, gamma=gamma, lam=lam, masked="skip")
    for row in range(4):
        expected = by_loop(rewards[row][kept[row]].tolist(), values[row][kept[row]].tolist(), gamma, lam)
        assert found.advantages[row][kept[row]].tolist() == pytest.approx(expected)
        assert found.returns[row][kept[row]].tolist() == pytest.approx(
            [a + v for a, v in zip(expected, values[row][kept[row]].tolist(), strict=True)]
        )


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5)])
def test_tokens_that_are_zeroed_have_no_reward_and_no_value(gamma, lam):
    rewards, values = drawn(), drawn(1)
    found = gae(rewards, values, MASK, gamma=gamma, lam=lam)
    for row in range(4):
        expected = by_loop((rewards * MASK)[row].tolist(), (values * MASK)[row].tolist(), gamma, lam)
        assert found.advantages[row].tolist() == pytest.approx(expected)


def test_its_ends_are_the_return_less_the_value_and_the_error_of_one_step():
    rewards, values = drawn(), drawn(1)
    to_come = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(gae(rewards, values, lam=1.0).advantages, to_come - values)
    torch.testing.assert_close(gae(rewards, values, lam=1.0).returns, to_come)
    behind = torch.nn.functional.pad(values[:, 1:], (0, 1))
    torch.testing.assert_close(gae(rewards, values, lam=0.0, gamma=0.9).advantages, rewards + 0.9 * behind - values)


def test_whitened_they_have_mean_0_and_variance_1_and_returns_stay():
    rewards, values, kept = drawn(), drawn(1), MASK != 0
    plain, found = (gae(rewards, values, MASK, whitened=whitened) for whitened in (False, True))
    assert found.advantages[kept].mean().abs() < 1e-12 and found.advantages[kept].var().item() == pytest.approx(1.0)
    assert torch.equal(found.returns, plain.returns)


@pytest.mark.parametrize("masked", ["zero", "skip"])
def test_what_is_masked_may_hold_anything(masked):
    rewards, values, kept = drawn(), drawn(1), MASK != 0
    expected = gae(rewards, values, MASK, masked=masked, whitened=True)
    found = gae(rewards.masked_fill(~kept, torch.nan), values.masked_fill(~kept, torch.inf), MASK, masked=masked,
                whitened=True)  # fmt: skip
    assert torch.equal(found.advantages[kept], expected.advantages[kept])
    assert torch.equal(found.returns[kept], expected.returns[kept])


def test_an_exact_critic_makes_smaller_lambdas_vary_less_without_bias():
    """Rewards of independent tokens, of which the critic knows the mean: every λ has the same mean, here 0."""
    rewards = 1 + drawn(2, (4000, 6))
    values = torch.arange(6, 0, -1).double().expand(4000, 6)
    first = {lam: gae(rewards, values, lam=lam).advantages[:, 0] for lam in (0.0, 0.5, 1.0)}
    assert first[0.0].var() < first[0.5].var() < first[1.0].var()
    assert all(column.mean().abs() < 4 * (column.var() / 4000).sqrt() for column in first.values())


@pytest.mark.parametrize("tokens", [0, 1, 2, 7, 64, 100])
def test_the_recursion_is_a_loop(tokens):
    values, decay = drawn(0, (3, tokens)), drawn(1, (3, tokens))
    expected, behind = torch.zeros(3, tokens).double(), torch.zeros(3).double()
    for place in reversed(range(tokens)):
        behind = expected[:, place] = values[:, place] + decay[:, place] * behind
    torch.testing.assert_close(backward_recursion(values, decay), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_or_single_values_are_whitened_to_0(dtype):
    values, kept = torch.full((1, 7), 0.7, dtype=dtype), torch.ones(1, 7, dtype=torch.bool)
    assert bool((whiten(values, kept) == 0).all())
    assert whiten(values, torch.arange(7).unsqueeze(0) == 2)[0, 2] == 0
    assert bool(whiten(values, ~kept).isfinite().all())


def test_the_score_stands_at_the_last_token_or_behind_it():
    scores, kl = torch.tensor([1.0, 2.0, 9.0, 4.0]), torch.ones(4, 5)
    last = torch.tensor([[0.0, 0, 0, 0, 1], [0, 0, 2, 0, 0], [0, 0, 0, 3, 0], [0, 0, 0, 0, 0]])
    after = torch.tensor([[0.0, 0, 0, 0, 1], [0, 0, 0, 2, 0], [0, 0, 0, 0, 3], [0, 0, 0, 0, 0]])
    for place, where in (("last", last), ("after", after)):
        found = kl_shaped_reward(scores, kl, MASK, kl_coef=0.1, score_clip=(-3.0, 3.0), place=place)
        torch.testing.assert_close(found, where - 0.1 * MASK)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^gae: values of shape \[4\] came with token_rewards of shape \[4, 5\]"):
        gae(torch.zeros(4, 5), torch.zeros(4))
    with pytest.raises(ValueError, match="^gae: completion_mask came as a list; give a tensor"):
        gae(torch.zeros(1, 2), torch.zeros(1, 2), [[1, 1]])
    with pytest.raises(ValueError, match="^gae: masked='drop' came"):
        gae(torch.zeros(4, 5), torch.zeros(4, 5), masked="drop")
    with pytest.raises(ValueError, match=r"^kl_shaped_reward: scores of shape \[3\] came"):
        kl_shaped_reward(torch.zeros(3), torch.zeros(4, 5))
    for options in ({"gamma": 1.5}, {"lam": -0.1}, {"gamma": float("nan")}):
        with pytest.raises(ValueError, match=f"^gae: {next(iter(options))}=.* came; give a number at least 0"):
            gae(torch.zeros(4, 5), torch.zeros(4, 5), **options)
    with pytest.raises(ValueError, match="^kl_shaped_reward: kl_coef=-1.0 came; give a number at least 0"):
        kl_shaped_reward(torch.zeros(4), torch.zeros(4, 5), kl_coef=-1.0)
    with pytest.raises(ValueError, match="^kl_shaped_reward: a clip from 1.0 to 0.0 came; give the lower number first"):
        kl_shaped_reward(torch.zeros(4), torch.zeros(4, 5), score_clip=(1.0, 0.0))
    with pytest.raises(ValueError, match="^kl_shaped_reward: infinite rewards came"):
        kl_shaped_reward(torch.full((4,), torch.inf), torch.zeros(4, 5))
