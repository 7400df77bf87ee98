import pytest
import torch

from lightning_losses.losses import MTARDBalance
from lightning_losses.losses.distillation.logits.mtard_balance import (
    entropy_balance_temperature,
    normalized_loss_balance,
)


def logits(seed=0):
    return 2 * torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))


def test_equal_teachers_stay_equal():
    loss = MTARDBalance(num_teachers=2, least_temperature=1.0)
    loss.temperatures.fill_(2.0)
    for seed in range(3):
        student, teacher = logits(seed), logits(9)
        loss({"a": student, "b": student}, {"a": teacher, "b": teacher})
    assert loss.weights.tolist() == [0.5, 0.5]
    assert loss.temperatures.tolist() == [2.0, 2.0]


def test_what_falls_slower_weighs_more():
    weights = normalized_loss_balance(torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.2]), torch.tensor([1.0, 1.0]))
    assert weights[0] > 0.5 > weights[1]
    assert weights.sum().item() == pytest.approx(1)


def test_the_less_sure_teacher_is_cooled_within_bounds():
    entropies = -torch.tensor([1.5, 0.5])  # negative entropies: the first teacher is less sure
    moved = entropy_balance_temperature(torch.tensor([2.0, 2.0]), entropies, rate=0.1)
    assert moved.tolist() == pytest.approx([1.9, 2.1])
    bounded = entropy_balance_temperature(torch.tensor([1.0, 10.0]), entropies, rate=0.1)
    assert bounded.tolist() == [1.0, 10.0]


def test_three_teachers_keep_weights_of_sum_one():
    loss = MTARDBalance(num_teachers=3, weight_rate=0.5)
    for seed in range(4):
        student = {name: logits(seed + place) for place, name in enumerate("abc")}
        loss(student, {name: logits(20 + place) for place, name in enumerate("abc")})
    assert loss.weights.sum().item() == pytest.approx(1)
    assert bool((loss.weights >= 0).all()) and len(set(loss.weights.tolist())) == 3


def test_evaluation_changes_nothing_and_state_is_saved():
    loss = MTARDBalance(num_teachers=2, weight_rate=0.5)
    step = {"a": logits(0), "b": logits(1)}, {"a": logits(2), "b": logits(3) / 9}
    loss(*step)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.eval()(*step)
    with torch.no_grad():
        loss.train()(*step)
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0)
    other = {"a": logits(4), "b": logits(5)}, step[1]
    fresh = MTARDBalance(num_teachers=2, weight_rate=0.5)
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh(*other), loss.train()(*other))
    assert torch.equal(fresh.weights, loss.weights)


def test_the_balances_are_constants_of_the_gradient():
    loss = MTARDBalance(num_teachers=2, weight_rate=0.5)
    teacher = {"a": logits(2), "b": logits(3)}
    loss({"a": logits(0), "b": logits(1)}, teacher)
    student = {"a": logits(4).requires_grad_(), "b": logits(5)}
    slope = torch.autograd.grad(loss(student, teacher), student["a"])[0]
    t = teacher["a"].softmax(dim=-1)
    # The second step's weight is in force; temperatures are 1 up to the rate.
    expected = loss.weights[0] * (student["a"].softmax(dim=-1) - t) / 20
    torch.testing.assert_close(slope, expected.detach(), rtol=1e-2, atol=1e-4)


def test_other_teachers_are_refused():
    with pytest.raises(ValueError, match="^mtard_balance: logits for .*the same 2 names"):
        MTARDBalance(num_teachers=2)(logits(), logits())
    with pytest.raises(ValueError, match="^mtard_balance: num_teachers=0"):
        MTARDBalance(num_teachers=0)


@pytest.mark.parametrize("begun", [False, True])
def test_a_step_that_is_not_a_number_moves_nothing(begun):
    loss, fresh = MTARDBalance(num_teachers=2), MTARDBalance(num_teachers=2)
    logits = {"robust": torch.randn(4, 3), "clean": torch.randn(4, 3)}
    teacher = {name: value.flip(0) for name, value in logits.items()}
    if begun:
        loss(logits, teacher)
        fresh.load_state_dict(loss.state_dict())
    broken = {**logits, "clean": torch.full((4, 3), torch.nan)}
    assert bool(torch.isnan(loss(broken, teacher)))
    torch.testing.assert_close(loss.state_dict(), fresh.state_dict(), rtol=0, atol=0)
    # The next one goes on as if that had not been.
    torch.testing.assert_close(loss(logits, teacher), fresh(logits, teacher), rtol=0, atol=0)
    torch.testing.assert_close(loss.state_dict(), fresh.state_dict(), rtol=0, atol=0)


def test_the_balances_move_in_half_precision():
    """In bfloat16 a thousandth of a temperature, and 2.5 % of a weight, round to none."""
    loss = MTARDBalance(num_teachers=2, weight_rate=0.001).bfloat16()
    student = logits(0).bfloat16()
    for _ in range(100):
        loss({"a": student, "b": student}, {"a": logits(1).bfloat16(), "b": 5 * logits(2).bfloat16()})
    assert loss.temperatures.max() == pytest.approx(1.1, abs=1e-3)
    assert loss.temperatures.dtype == loss.weights.dtype == torch.float32
