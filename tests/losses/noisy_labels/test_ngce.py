import torch

from lightning_losses.losses import NCE, NGCE, MAEReduced
from tests.losses.noisy_labels.cases import CLASSES, ROWS, over_all_labels, sample


def test_value_from_the_definition():
    logits, target, p = sample()
    expected = (1 - p**0.4) / (CLASSES - (logits.softmax(-1) ** 0.4).sum(-1))
    torch.testing.assert_close(NGCE(q=0.4, reduction="none")(logits, target), expected)


def test_its_limits_are_nce_and_mae():
    logits, target, _ = sample()
    torch.testing.assert_close(NGCE(q=1e-12)(logits, target), NCE()(logits, target))
    torch.testing.assert_close(NGCE(q=1.0)(logits, target), MAEReduced()(logits, target) / (CLASSES - 1))


def test_it_is_symmetric():
    logits, *_ = sample()
    torch.testing.assert_close(over_all_labels(NGCE(reduction="none"), logits), torch.ones(ROWS, dtype=torch.float64))
