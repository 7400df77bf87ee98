import torch
import torch.nn.functional as F

from lightning_losses.losses import MDCA
from tests.losses.confidence.cases import sample


def test_it_is_mean_probabilities_against_frequencies():
    logits, target = sample()
    expected = (logits.softmax(-1).mean(0) - F.one_hot(target, 5).double().mean(0)).abs().mean()
    torch.testing.assert_close(MDCA()(logits, target), expected)


def test_it_vanishes_where_they_agree():
    probabilities = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).repeat(4, 1)
    assert MDCA()(probabilities.log(), torch.tensor([0, 1, 2, 0])) < 1e-15


def test_a_batch_of_one():
    logits, target = sample(1)
    p = logits.softmax(-1)[0, target[0]]
    torch.testing.assert_close(MDCA()(logits, target), 2 * (1 - p) / 5)
