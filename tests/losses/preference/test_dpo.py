import math

import pytest
import torch

from lightning_losses.losses import DPO
from tests.losses.preference.pairs import direct, examples, mean, numbers, sigmoid


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_value_from_the_definition(label_smoothing):
    values = examples()
    expected = [
        -(1 - label_smoothing) * math.log(sigmoid(0.3 * (pair.chosen - pair.rejected)))
        - label_smoothing * math.log(sigmoid(-0.3 * (pair.chosen - pair.rejected)))
        for pair in numbers(values)
    ]
    torch.testing.assert_close(DPO(0.3, label_smoothing)(**values), mean(expected))


def test_at_the_reference_it_is_log_2_with_a_slope_of_half_beta_on_each_token():
    values = examples()
    values["ref_chosen_logps"] = values["chosen_logps"].clone()
    values["ref_rejected_logps"] = values["rejected_logps"].clone()
    leaf = values["chosen_logps"].requires_grad_()
    value = DPO(beta=0.4, reduction="none")(**values)
    torch.testing.assert_close(value, torch.full((4,), math.log(2), dtype=torch.float64))
    slope = torch.autograd.grad(value.sum(), leaf)[0]
    torch.testing.assert_close(slope, -0.2 * values["chosen_mask"].double())


def test_least_where_the_smoothed_label_is_met():
    margin = math.log(0.8 / 0.2) / 0.5
    least = DPO(0.5, 0.2)(**direct(margin))
    assert least < min(DPO(0.5, 0.2)(**direct(margin + step)) for step in (-0.1, 0.1))


def test_only_the_difference_counts():
    torch.testing.assert_close(DPO()(**direct(3.0, 1.0)), DPO()(**direct(-3.0, -5.0)))
