import torch

from lightning_losses.losses import SPPOHard
from tests.losses.preference.pairs import direct, examples, mean, numbers


def test_value_from_the_definition():
    values = examples()
    aim = 1 / (2 * 0.3)
    expected = [(pair.chosen - aim) ** 2 + (pair.rejected + aim) ** 2 for pair in numbers(values)]
    torch.testing.assert_close(SPPOHard(0.3)(**values), mean(expected))


def test_it_is_0_where_both_have_their_values():
    assert SPPOHard(0.25)(**direct(2.0, -2.0)).item() == 0
    assert min(SPPOHard(0.25)(**direct(*ratios)).item() for ratios in ((2.1, -2.0), (2.0, -2.1), (4.0, 0.0))) > 0
