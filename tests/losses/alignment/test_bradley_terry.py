import math

import pytest
import torch

from lightning_losses.losses import BradleyTerry

DRAW = torch.Generator().manual_seed(0)
CHOSEN, REJECTED = (3 * torch.randn(7, dtype=torch.float64, generator=DRAW) for _ in range(2))
MARGIN = torch.rand(7, dtype=torch.float64, generator=DRAW)


def test_value_from_the_definition():
    each = [
        math.log(1 + math.exp(-(w - b - m))) + 0.2 * (w + b) ** 2
        for w, b, m in zip(CHOSEN.tolist(), REJECTED.tolist(), MARGIN.tolist(), strict=True)
    ]
    assert BradleyTerry(0.2)(CHOSEN, REJECTED, MARGIN).item() == pytest.approx(sum(each) / 7, rel=1e-12)


def test_equal_rewards_cost_log_2_and_exchanged_ones_their_difference():
    loss = BradleyTerry(reduction="none")
    torch.testing.assert_close(loss(CHOSEN, CHOSEN), torch.full_like(CHOSEN, math.log(2)))
    torch.testing.assert_close(loss(CHOSEN, REJECTED) - loss(REJECTED, CHOSEN), REJECTED - CHOSEN)


def test_a_constant_changes_nothing_but_the_centring():
    torch.testing.assert_close(BradleyTerry()(CHOSEN + 5, REJECTED + 5), BradleyTerry()(CHOSEN, REJECTED))
    centred = BradleyTerry(0.1)
    gap = centred(CHOSEN + 5, REJECTED + 5) - centred(CHOSEN, REJECTED)
    torch.testing.assert_close(gap, 0.1 * ((CHOSEN + REJECTED + 10).square() - (CHOSEN + REJECTED).square()).mean())


def test_a_margin_is_a_smaller_reward_of_the_chosen_and_has_no_gradient():
    margin = MARGIN.clone().requires_grad_()
    chosen = CHOSEN.clone().requires_grad_()
    value = BradleyTerry()(chosen, REJECTED, margin)
    torch.testing.assert_close(value, BradleyTerry()(CHOSEN - MARGIN, REJECTED))
    slopes = torch.autograd.grad(value, [chosen, margin], allow_unused=True)
    torch.testing.assert_close(slopes[0], -torch.sigmoid(-(CHOSEN - REJECTED - MARGIN)) / 7)
    assert slopes[1] is None


def test_gaps_that_overflow_an_exponential_are_finite():
    far = torch.tensor([1e30, 0.0], requires_grad=True)
    value = BradleyTerry()(far, far.detach().flip(0))
    assert torch.isfinite(value) and torch.isfinite(torch.autograd.grad(value, far)[0]).all()


@pytest.mark.parametrize("name", ["chosen_rewards", "rejected_rewards", "reward_margin"])
def test_infinite_numbers_are_refused(name):
    given = {"chosen_rewards": CHOSEN, "rejected_rewards": REJECTED, "reward_margin": MARGIN}
    given[name] = given[name].clone().index_fill(0, torch.tensor([2]), torch.inf)
    with pytest.raises(ValueError, match=f"^bradley_terry: {name} holds an infinite number; give finite ones"):
        BradleyTerry()(**given)


def test_rewards_that_are_no_pairs_are_refused():
    with pytest.raises(
        ValueError, match=r"^bradley_terry: rejected_rewards of shape \[6\] came; give a number for each"
    ):
        BradleyTerry()(CHOSEN, REJECTED[:6])
    with pytest.raises(ValueError, match=r"^bradley_terry: chosen_rewards of shape \[7, 1\] came"):
        BradleyTerry()(CHOSEN.unsqueeze(1), REJECTED)
