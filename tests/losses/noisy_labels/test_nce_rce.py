import torch

from lightning_losses.losses import NCE, RCE, NCEAndRCE
from tests.losses.noisy_labels.cases import sample


def test_it_is_the_weighted_sum_of_its_parts():
    logits, target, _ = sample()
    expected = 0.5 * NCE()(logits, target) + 2 * RCE(log_of_zero=-3.0)(logits, target)
    torch.testing.assert_close(NCEAndRCE(alpha=0.5, beta=2.0, log_of_zero=-3.0)(logits, target), expected)
