import torch
import torch.nn.functional as F

from lightning_losses.losses import EntmaxLoss, SparsemaxLoss
from lightning_losses.numerics.tempered import tempered_log_probabilities
from tests.losses.classification.cases import CLASSES, ROWS, sample, slope


def sparsemax(logits):
    """By sorting: the support are the largest for which 1 + k z_k exceeds the sum of the k largest."""
    ordered = logits.sort(dim=-1, descending=True).values
    number = torch.arange(1, logits.shape[-1] + 1)
    sums = ordered.cumsum(-1)
    support = (1 + number * ordered > sums).sum(-1, keepdim=True)
    return torch.relu(logits - (sums.gather(-1, support - 1) - 1) / support)


def test_value_and_gradient_from_the_definition():
    logits, target = sample(scale=0.7)
    p, q = sparsemax(logits), F.one_hot(target, CLASSES).double()
    assert (p == 0).any() and ((p > 0).sum(-1) > 1).any()
    loss = SparsemaxLoss(reduction="none")
    expected = ((p - q) * logits).sum(-1) + (1 - p.square().sum(-1)) / 2
    torch.testing.assert_close(loss(logits, target), expected)
    torch.testing.assert_close(slope(loss, logits, target), p - q)


def test_it_is_the_loss_of_entmax_at_2():
    logits, target = sample()
    torch.testing.assert_close(SparsemaxLoss()(logits, target), EntmaxLoss(alpha=2.0)(logits, target))


def test_of_many_classes_that_are_near_each_other_the_support_is_exact():
    logits = 0.1 * torch.randn(ROWS, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = sparsemax(logits)
    assert ((p > 0).sum(-1) > 20).all()
    torch.testing.assert_close(tempered_log_probabilities(logits, 0.0).exp(), p)
