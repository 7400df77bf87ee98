import torch
import torch.nn.functional as F

from lightning_losses.losses import EntmaxLoss, SparsemaxLoss
from tests.losses.classification.cases import CLASSES, ROWS, sample, slope


def sparsemax(logits):
    """By sorting: the support are the largest for which 1 + k z_k exceeds the sum of the k largest."""
    ordered = logits.sort(dim=-1, descending=True).values
    number = torch.arange(1, CLASSES + 1)
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


def test_many_classes_that_are_nearly_equal_all_have_a_share():
    logits = torch.linspace(0, 1e-6, 10_000, dtype=torch.float64).expand(ROWS, -1)
    value = SparsemaxLoss()(logits, torch.zeros(ROWS, dtype=torch.long))
    torch.testing.assert_close(value.item(), 0.5, rtol=1e-3, atol=0)
