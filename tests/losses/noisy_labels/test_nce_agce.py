import torch

from lightning_losses.losses import AGCE, NCE, NCEAndAGCE
from tests.losses.noisy_labels.cases import sample


def test_it_is_the_weighted_sum_of_its_parts():
    logits, target, _ = sample()
    expected = 0.5 * NCE()(logits, target) + 2 * AGCE(a=0.7, q=2.5)(logits, target)
    torch.testing.assert_close(NCEAndAGCE(alpha=0.5, beta=2.0, a=0.7, q=2.5)(logits, target), expected)
