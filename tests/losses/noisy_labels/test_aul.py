import pytest
import torch

from lightning_losses.losses import AUL, MAEReduced
from tests.losses.noisy_labels.cases import sample


@pytest.mark.parametrize(("a", "q"), [(1.2, 0.5), (2.0, 2.0), (100.0, 10.0), (1.001, 10.0), (1 + 1e-9, 3.0)])
def test_value_from_the_definition(a, q):
    logits, target, p = sample()
    torch.testing.assert_close(AUL(a=a, q=q, reduction="none")(logits, target), ((a - p) ** q - (a - 1) ** q) / q)


def test_with_exponent_1_it_is_mae():
    logits, target, _ = sample()
    torch.testing.assert_close(AUL(a=3.0, q=1.0)(logits, target), MAEReduced()(logits, target))
