import pytest
import torch

from lightning_losses.losses import IPO
from tests.losses.preference.pairs import direct, examples, mean, numbers


@pytest.mark.parametrize("over", ["mean", "sum"])
def test_value_from_the_definition(over):
    values = examples()
    expected = [
        ((p.chosen_mean - p.rejected_mean if over == "mean" else p.chosen - p.rejected) - 1 / (2 * 0.3)) ** 2
        for p in numbers(values)
    ]
    torch.testing.assert_close(IPO(0.3, over)(**values), mean(expected))


def test_it_is_0_at_its_own_margin_alone():
    assert IPO(0.25)(**direct(2.0)).item() == 0
    assert min(IPO(0.25)(**direct(margin)).item() for margin in (1.9, 2.1, 50.0)) > 0


def test_of_single_tokens_mean_and_sum_are_one():
    torch.testing.assert_close(IPO(over="mean")(**direct(0.7)), IPO(over="sum")(**direct(0.7)))
