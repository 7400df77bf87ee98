import torch

from lightning_losses.losses import GCE, TruncatedGCE
from tests.losses.noisy_labels.cases import sample, slope


def test_below_the_threshold_it_is_a_constant_and_above_it_gce():
    logits, target, p = sample()
    assert (p < 0.3).any() and (p > 0.3).any()
    loss, whole = TruncatedGCE(q=0.6, threshold=0.3, reduction="none"), GCE(q=0.6, reduction="none")
    expected = torch.where(p > 0.3, (1 - p**0.6) / 0.6, (1 - 0.3**0.6) / 0.6)
    torch.testing.assert_close(loss(logits, target), expected)
    expected = slope(whole, logits, target) * (p > 0.3).unsqueeze(-1)
    torch.testing.assert_close(slope(loss, logits, target), expected)


def test_without_a_threshold_it_is_gce():
    logits, target, _ = sample()
    torch.testing.assert_close(TruncatedGCE(threshold=0.0)(logits, target), GCE()(logits, target))
