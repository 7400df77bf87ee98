import torch
import torch.nn.functional as F

from lightning_losses.losses import GCE, MAEReduced
from tests.losses.noisy_labels.cases import CLASSES, ROWS, over_all_labels, sample


def test_it_is_half_of_the_absolute_error():
    logits, target, _ = sample()
    expected = (logits.softmax(-1) - F.one_hot(target, CLASSES)).abs().sum(-1) / 2
    torch.testing.assert_close(MAEReduced(reduction="none")(logits, target), expected)


def test_it_is_gce_at_q_1():
    logits, target, _ = sample()
    torch.testing.assert_close(MAEReduced()(logits, target), GCE(q=1.0)(logits, target))


def test_it_is_symmetric():
    logits, *_ = sample()
    expected = torch.full((ROWS,), CLASSES - 1.0, dtype=torch.float64)
    torch.testing.assert_close(over_all_labels(MAEReduced(reduction="none"), logits), expected)
