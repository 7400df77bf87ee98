import torch

from lightning_losses.losses import APODown
from tests.losses.preference.pairs import direct, examples, mean, numbers, sigmoid


def test_value_from_the_definition():
    values = examples()
    expected = [
        sigmoid(0.3 * pair.chosen) + 1 - sigmoid(0.3 * (pair.chosen - pair.rejected)) for pair in numbers(values)
    ]
    torch.testing.assert_close(APODown(0.3)(**values), mean(expected))


def test_both_go_down_once_they_are_apart():
    values = direct(0.0, -60.0)
    leaves = [values[name].requires_grad_() for name in ("chosen_logps", "rejected_logps")]
    chosen, rejected = torch.autograd.grad(APODown()(**values), leaves)
    assert chosen > 0 and rejected > 0


def test_where_they_agree_the_rejected_goes_down_and_the_chosen_stays():
    values = direct(0.0, 0.0)
    leaves = [values[name].requires_grad_() for name in ("chosen_logps", "rejected_logps")]
    chosen, rejected = torch.autograd.grad(APODown()(**values), leaves)
    assert abs(chosen.item()) < 1e-12 and rejected > 0
