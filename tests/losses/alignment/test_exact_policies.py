"""On categorical policies training reaches the policy that theory names, for each loss its own."""

import pytest
import torch

from benchmarks.exact_policies import (
    CYCLE,
    F_DPG,
    F_DPO,
    REFERENCE,
    REWARDS,
    SKEWED,
    distance,
    f_dpg,
    game,
    nash,
    optimum_of,
    preferences,
    reward_model,
    tilted,
)


def test_each_loss_of_pairs_reaches_its_own_optimum():
    rows = {row.method: row for row in preferences()}
    assert all(row.before > 0.1 for row in rows.values())
    # A share of flipped labels moves DPO, but not robust DPO.
    assert rows.pop("DPO, 20 % flipped").after > 0.1
    assert {method: row.after for method, row in rows.items() if row.after > 1e-6} == {}
    assert {f"f-DPO, {name}" for name in F_DPO} < rows.keys()


@pytest.mark.parametrize("name", F_DPO)
def test_an_optimum_has_the_most_reward_less_its_divergence(name):
    beta, alpha = 0.5, 0.5
    generators = {
        "reverse_kl": lambda u: u * u.log(),
        "forward_kl": lambda u: -u.log(),
        "js": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
        "alpha": lambda u: (u ** (1 - alpha) - (1 - alpha) * u - alpha) / (alpha * (alpha - 1)),
    }
    best = optimum_of(name, REFERENCE, REWARDS, beta)

    def worth(policy):
        return (policy * REWARDS).sum() - beta * (REFERENCE * generators[name](policy / REFERENCE)).sum()

    draw = torch.Generator().manual_seed(0)
    for _ in range(50):
        other = (best.log() + 0.1 * torch.randn(5, dtype=torch.float64, generator=draw)).softmax(dim=0)
        assert worth(other) < worth(best)


def test_a_reward_model_finds_the_rewards():
    row = reward_model()
    assert row.before > 1 and row.after < 1e-6


def test_inpo_nears_the_nash_policy_where_ipo_and_dpo_go_round():
    played = game(iterations=20)
    assert played.from_closed_form < 1e-6
    inpo, ipo, dpo = (played.distances[name] for name in ("INPO", "IPO", "DPO"))
    assert inpo[-1] < 0.15 * inpo[0] and max(inpo[-3:]) < 0.5 * max(inpo[6:9])
    assert min(ipo[10:]) > 0.4 and min(dpo[10:]) > 0.3


def test_the_nash_policy_is_its_own_best_answer():
    policy = nash(CYCLE, SKEWED, 0.1)
    assert distance(policy, tilted(SKEWED, CYCLE @ policy / 0.1)) < 1e-12
    # Without a reference that leans to one answer all are alike.
    even = nash(CYCLE, torch.full((3,), 1 / 3, dtype=torch.float64), 0.1)
    torch.testing.assert_close(even, torch.full((3,), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("name", F_DPG)
def test_f_dpg_rests_at_its_target_and_goes_there(name):
    gradient, row = f_dpg(name, steps=300)
    assert gradient < 1e-14
    assert row.after < 0.1 * row.before
