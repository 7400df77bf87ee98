import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import GCE
from tests.losses.noisy_labels.cases import sample, slope, slope_of_cross_entropy


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_value_and_gradient_from_the_definition(q):
    logits, target, p = sample()
    loss = GCE(q=q, reduction="none")
    torch.testing.assert_close(loss(logits, target), (1 - p**q) / q)
    torch.testing.assert_close(
        slope(loss, logits, target), p.unsqueeze(-1) ** q * slope_of_cross_entropy(logits, target)
    )


def test_near_q_0_it_is_cross_entropy():
    logits, target, _ = sample()
    torch.testing.assert_close(GCE(q=1e-12)(logits, target), F.cross_entropy(logits, target))


def test_an_impossible_target_has_a_bounded_value_and_hardly_pulls():
    logits, target = torch.tensor([[1e4, 0.0], [0.0, -torch.inf]]), torch.tensor([1, 1])
    loss = GCE(q=0.5, reduction="none")
    assert loss(logits, target).tolist() == [2.0, 2.0]
    assert torch.equal(slope(loss, logits, target), torch.zeros(2, 2))
