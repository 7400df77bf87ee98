"""PPO's loss of a critic, against its definition."""

import pytest
import torch

from lightning_losses.losses import PPOValueLoss
from tests.losses.examples import with_gradients
from tests.losses.policy_gradient.batches import assert_equal, batch


def values_of(seed=0):
    one, other = batch(seed), batch(seed + 100)
    return {
        "values": one["logps"],
        "returns": other["logps"],
        "old_values": one["old_logps"],
        "completion_mask": one["completion_mask"],
    }


@pytest.mark.parametrize("clip", [None, 0.2, 1.0])
def test_it_is_half_the_larger_squared_error(clip):
    values = values_of()
    errors = []
    for v, goal, old, kept in zip(*(tensor.flatten().tolist() for tensor in values.values()), strict=True):
        ends = [v] if clip is None else [v, min(max(v, old - clip), old + clip)]
        errors += [max((end - goal) ** 2 for end in ends) / 2] if kept else []
    assert_equal(PPOValueLoss(clip)(**values), sum(errors) / len(errors))


def test_the_gradient_is_the_error_and_0_beyond_the_range_on_the_way_to_the_return():
    values = {
        "values": torch.tensor([[0.1, 0.5, -0.5]], dtype=torch.float64),
        "returns": torch.ones(1, 3).double(),
        "old_values": torch.zeros(1, 3).double(),
    }
    slope = with_gradients(PPOValueLoss(0.2), values)[1]["values"]
    # The second has gone too far towards its return, the third away from it.
    torch.testing.assert_close(slope, torch.tensor([[-0.9, 0.0, -1.5]], dtype=torch.float64) / 3)


def test_without_old_values_nothing_is_out_of_the_range():
    values = values_of()
    del values["old_values"]
    torch.testing.assert_close(PPOValueLoss(0.01)(**values), PPOValueLoss(None)(**values))


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf])
def test_what_is_masked_may_hold_anything(garbage):
    values = values_of()
    value, slope = with_gradients(PPOValueLoss(), values)
    for name in ("values", "returns", "old_values"):
        values[name] = values[name].masked_fill(~values["completion_mask"], garbage)
    other, others = with_gradients(PPOValueLoss(), values)
    assert torch.equal(other, value) and torch.equal(others["values"], slope["values"])


def test_everything_masked_is_0():
    values = values_of()
    values["completion_mask"] = torch.zeros_like(values["completion_mask"])
    value, slope = with_gradients(PPOValueLoss(), values)
    assert value == 0 and bool((slope["values"] == 0).all())


def test_other_shapes_are_refused():
    values = values_of()
    with pytest.raises(ValueError, match=r"^ppo_value_loss: returns of shape \[6\] came"):
        PPOValueLoss()(**{**values, "returns": torch.zeros(6)})
