import math

import pytest
import torch

from lightning_losses.losses import EXOPair
from tests.losses.preference.pairs import direct, examples, mean, numbers, sigmoid


def test_value_from_the_definition():
    values, expected = examples(), []
    for pair in numbers(values):
        q = sigmoid(0.3 * (pair.chosen - pair.rejected))
        expected.append(q * math.log(q / 0.8) + (1 - q) * math.log((1 - q) / 0.2))
    torch.testing.assert_close(EXOPair(0.3, 0.2)(**values), mean(expected))


def test_it_is_a_divergence():
    at_the_label = EXOPair(0.5, 0.2)(**direct(math.log(4) / 0.5))
    assert abs(at_the_label.item()) < 1e-12
    assert min(EXOPair(0.5, 0.2)(**direct(margin)).item() for margin in (-5.0, 0.0, 2.7, 9.0)) > 0


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_label_without_noise_has_no_divergence(rate):
    with pytest.raises(ValueError, match=rf"^exo_pair: label_smoothing={rate} came; give a number above 0 and below"):
        EXOPair(label_smoothing=rate)
