import pytest
import torch

from lightning_losses.losses import DPO, RobustDPO
from tests.losses.preference.pairs import direct, examples


def flipped(values):
    other = {"chosen": "rejected", "rejected": "chosen"}
    return {
        name: values[name.replace(side, other[side])]
        for name in values
        for side in ("chosen", "rejected")
        if side in name
    }


def test_in_expectation_over_flips_it_is_dpo_of_the_right_labels():
    values, loss = examples(), RobustDPO(0.3, 0.2, reduction="none")
    expected = DPO(0.3, reduction="none")(**values)
    torch.testing.assert_close(0.8 * loss(**values) + 0.2 * loss(**flipped(values)), expected)


def test_without_flips_it_is_dpo():
    torch.testing.assert_close(RobustDPO(0.3, 0.0)(**examples()), DPO(0.3)(**examples()))


def test_a_pair_that_is_far_apart_still_teaches():
    values = direct(200.0)
    leaf = values["chosen_logps"].requires_grad_()
    # DPO's slope is 0 there; this one tends to -β ε / (1 - 2 ε).
    value = RobustDPO(1.0, 0.1)(**values)
    assert value.item() < 0
    assert torch.autograd.grad(value, leaf)[0].item() == pytest.approx(-0.125)


def test_a_rate_of_one_half_is_refused():
    with pytest.raises(ValueError, match=r"^robust_dpo: label_smoothing=0.5 came; give a number"):
        RobustDPO(label_smoothing=0.5)
