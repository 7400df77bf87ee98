import math

import pytest
import torch

from lightning_losses.losses import ORPO
from tests.losses.preference.pairs import examples, mean, numbers, sigmoid


def test_value_from_the_definition():
    def log_odds(log_p):
        return math.log(math.exp(log_p) / (1 - math.exp(log_p)))

    values = examples(reference=False)
    expected = [
        -0.7 * pair.chosen_mean - 0.3 * math.log(sigmoid(log_odds(pair.chosen_mean) - log_odds(pair.rejected_mean)))
        for pair in numbers(values)
    ]
    torch.testing.assert_close(ORPO(0.3, 0.7)(**values), mean(expected))


def test_equal_completions_have_odds_of_1():
    even = torch.full((1, 3), -0.7, dtype=torch.float64)
    torch.testing.assert_close(ORPO(0.3, 0.0)(even, even).item(), 0.3 * math.log(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_and_impossible_completions_are_finite(dtype):
    certain, impossible = torch.zeros(1, 2, dtype=dtype), torch.full((1, 2), -1e4, dtype=dtype)
    for given in ((certain, impossible), (impossible, certain), (certain, certain)):
        leaves = [each.clone().requires_grad_() for each in given]
        value = ORPO()(*leaves)
        assert bool(torch.isfinite(value))
        assert all(bool(torch.isfinite(slope).all()) for slope in torch.autograd.grad(value, leaves))


def test_near_certainty_the_odds_keep_their_digits():
    # 1 - p is 1e-4, of which float32 has few digits where it is formed from p.
    near, even = torch.tensor([[-1e-4]]), torch.tensor([[math.log(0.5)]])
    expected = math.log1p(math.exp(-(-1e-4 - math.log(-math.expm1(-1e-4)))))
    assert ORPO(1.0, 0.0)(near, even).item() == pytest.approx(expected, rel=1e-5)
