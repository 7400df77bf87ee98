import torch
import torch.nn.functional as F

from lightning_losses.losses import RCE, SCE
from tests.losses.noisy_labels.cases import sample


def test_it_is_the_weighted_sum_of_its_parts():
    logits, target, _ = sample()
    expected = 0.5 * F.cross_entropy(logits, target) + 2 * RCE(log_of_zero=-3.0)(logits, target)
    torch.testing.assert_close(SCE(alpha=0.5, beta=2.0, log_of_zero=-3.0)(logits, target), expected)


def test_without_its_reverse_it_is_cross_entropy():
    logits, target, _ = sample()
    torch.testing.assert_close(SCE(alpha=1.0, beta=0.0)(logits, target), F.cross_entropy(logits, target))
