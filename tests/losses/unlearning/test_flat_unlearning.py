import math

import pytest
import torch

from lightning_losses.losses import FlatUnlearning
from tests.losses.unlearning.texts import MASK, logps, slope

REFUSED = torch.tensor([[1, 1], [1, 0], [0, 1]])
# g and f* after it, of one number.
PAIRS = {
    "kl": (lambda v: v, lambda v: math.exp(v - 1)),
    "js": (
        lambda v: math.log(2) - math.log(1 + math.exp(-v)),
        lambda v: v + math.log(1 + math.exp(-v)) - math.log(2),
    ),
    "pearson": (lambda v: v, lambda v: v * v / 4 + v),
    "total_variation": (lambda v: math.tanh(v) / 2, lambda v: math.tanh(v) / 2),
    "jeffreys": (lambda v: v, lambda v: v + v * v / 4 + v**3 / 16),
}
each_divergence = pytest.mark.parametrize("divergence", PAIRS)


@each_divergence
def test_value_from_the_definition(divergence):
    said, known = logps(0, tokens=2), logps(1)
    g, conjugate = PAIRS[divergence]
    values = []
    for row in range(3):
        template = (said[row].exp() * REFUSED[row]).sum() / REFUSED[row].sum()
        forget = (known[row].exp() * MASK[row]).sum() / MASK[row].sum()
        values.append(conjugate(float(forget)) - g(float(template)))
    value = FlatUnlearning(divergence)(said, known, REFUSED, MASK).item()
    assert math.isclose(value, sum(values) / 3, rel_tol=1e-12)


@each_divergence
@pytest.mark.parametrize("count_ignored", [False, True])
def test_the_template_rises_and_what_is_to_be_forgotten_falls(divergence, count_ignored):
    loss, said, known = FlatUnlearning(divergence, count_ignored), logps(0, tokens=2), logps(1)
    assert slope(lambda given: loss(given, known, REFUSED, MASK), said)[REFUSED == 1].max() < 0
    assert slope(lambda given: loss(said, given, REFUSED, MASK), known)[MASK == 1].min() > 0


def test_the_codes_average_counts_ignored_tokens_and_is_of_the_batch():
    said, known = logps(0, tokens=2), logps(1)
    template, forget = (said.exp() * REFUSED).sum() / 6, (known.exp() * MASK).sum() / 12
    value = FlatUnlearning("kl", count_ignored=True)(said, known, REFUSED, MASK)
    torch.testing.assert_close(value, (forget - 1).exp() - template)
    # Where no token is ignored and there is one text, both agree.
    one = said[:1], known[:1]
    torch.testing.assert_close(FlatUnlearning(count_ignored=True)(*one), FlatUnlearning()(*one))


def test_nothing_to_forget_is_0():
    assert FlatUnlearning()(logps(0, tokens=2), logps(1), REFUSED, torch.zeros_like(MASK)) == 0
