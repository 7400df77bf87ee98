import math

import pytest
import torch

from lightning_losses.losses import CPO, CompletionNLL
from tests.losses.preference.pairs import examples, mean, numbers, sigmoid

LINKS = {
    "sigmoid": lambda p: (
        -0.9 * math.log(sigmoid(0.3 * (p.chosen - p.rejected))) - 0.1 * math.log(sigmoid(0.3 * (p.rejected - p.chosen)))
    ),
    "hinge": lambda p: max(0.0, 1 - 0.3 * (p.chosen - p.rejected)),
    "ipo": lambda p: (p.chosen_mean - p.rejected_mean - 1 / (2 * 0.3)) ** 2,
}


@pytest.mark.parametrize("link", LINKS)
def test_value_from_the_definition(link):
    values = examples(reference=False)
    expected = [LINKS[link](pair) - 0.7 * pair.chosen_mean for pair in numbers(values)]
    torch.testing.assert_close(CPO(0.3, 0.1, link, 0.7)(**values), mean(expected))


def test_its_likelihood_is_that_of_all_tokens_where_lengths_are_equal():
    values = {name: examples(reference=False)[name] for name in ("chosen_logps", "rejected_logps")}
    together = CPO(nll_weight=0.0)(**values) + CompletionNLL()(values["chosen_logps"])
    torch.testing.assert_close(CPO()(**values), together)


def test_it_takes_no_reference():
    assert not [name for name in CPO.inputs() if name.startswith("ref_")]
