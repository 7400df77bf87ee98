import torch

from lightning_losses.losses import APOZero
from tests.losses.preference.pairs import direct, examples, mean, numbers, sigmoid


def test_value_from_the_definition():
    values = examples()
    expected = [1 - sigmoid(0.3 * pair.chosen) + sigmoid(0.3 * pair.rejected) for pair in numbers(values)]
    torch.testing.assert_close(APOZero(0.3)(**values), mean(expected))


def test_chosen_go_up_and_rejected_down():
    values = direct(0.5, 0.5)
    leaves = [values[name].requires_grad_() for name in ("chosen_logps", "rejected_logps")]
    up, down = torch.autograd.grad(APOZero()(**values), leaves)
    assert up < 0 < down


def test_it_has_bounds():
    assert APOZero(1.0)(**direct(90.0, -90.0)).item() < 1e-12
    torch.testing.assert_close(APOZero(1.0)(**direct(-90.0, 90.0)).item(), 2.0)
