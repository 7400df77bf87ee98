"""Clipped importance-sampling policy optimisation, against its definition."""

import math

import pytest
import torch

from lightning_losses.losses import CISPO, PPOClip
from tests.losses.policy_gradient.batches import assert_equal, batch, by_token, slopes


@pytest.mark.parametrize(("most", "least"), [(5.0, 0.0), (1.2, 0.8)])
def test_it_is_reinforce_with_weights_that_are_clipped(most, least):
    values = batch()
    weight = (values["logps"] - values["old_logps"]).exp().clamp(least, most)
    loss = CISPO(most, least)
    assert_equal(loss(**values), by_token(values, lambda r, a, p: -min(max(math.exp(r), least), most) * a * p))
    expected = -weight * values["advantages"].unsqueeze(1) * values["completion_mask"] / values["completion_mask"].sum()
    torch.testing.assert_close(slopes(loss, values), expected)


def test_on_its_own_samples_its_gradient_is_ppos():
    values = batch()
    del values["old_logps"]
    torch.testing.assert_close(slopes(CISPO(), values), slopes(PPOClip(), values))


def test_no_token_loses_its_gradient():
    values = batch(drift=2.0)
    kept = values["completion_mask"]
    assert bool((slopes(CISPO(), values)[kept] != 0).all())
    assert bool((slopes(PPOClip(), values)[kept] == 0).any())


def test_a_range_that_is_upside_down_is_refused():
    with pytest.raises(ValueError, match=r"^cispo: min_ratio=2.0 came with max_ratio=1.0"):
        CISPO(1.0, 2.0)
