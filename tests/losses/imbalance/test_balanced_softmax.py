import torch

from lightning_losses.losses import BalancedSoftmax, LogitAdjustment

COUNTS = torch.tensor([90.0, 9.0, 0.0], dtype=torch.float64)
LOGITS = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 2, 1, 0, 2, 1])


def test_value_from_the_definition():
    counts = torch.tensor([91.0, 10.0, 1.0], dtype=torch.float64)
    p = counts[TARGET] * LOGITS.gather(1, TARGET.unsqueeze(1)).squeeze(1).exp() / (counts * LOGITS.exp()).sum(dim=1)
    torch.testing.assert_close(BalancedSoftmax(COUNTS, "add_one")(LOGITS, TARGET), -p.log().mean())


def test_it_is_logit_adjustment_with_a_tau_of_1():
    torch.testing.assert_close(BalancedSoftmax(COUNTS)(LOGITS, TARGET), LogitAdjustment(COUNTS)(LOGITS, TARGET))
