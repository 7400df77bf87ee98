import pytest
import torch

from lightning_losses.losses import MMCE
from tests.losses.confidence.cases import confidences, sample


def test_it_is_the_double_sum():
    logits, target = sample()
    c, a = confidences(logits, target)
    total = sum(
        (a[i] - c[i]) * (a[j] - c[j]) * torch.exp(-(c[i] - c[j]).abs() / 0.4) for i in range(12) for j in range(12)
    )
    torch.testing.assert_close(MMCE()(logits, target), total / 144)
    torch.testing.assert_close(MMCE(squared=False)(logits, target), (total / 144).sqrt())


@pytest.mark.parametrize("seed", range(5))
def test_it_is_not_negative(seed):
    assert MMCE()(*sample(seed=seed)) > 0


def test_certain_and_right_is_zero_with_a_finite_gradient_of_the_root():
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    loss = MMCE(squared=False)(logits, torch.tensor([0, 1]))
    assert loss == 0
    assert torch.equal(torch.autograd.grad(loss, logits)[0], torch.zeros(2, 2))


def test_a_batch_of_one():
    logits, target = sample(1)
    c, a = confidences(logits, target)
    torch.testing.assert_close(MMCE()(logits, target), (a - c).square()[0])


def test_bad_bandwidth_is_refused():
    with pytest.raises(ValueError, match="mmce: bandwidth=0"):
        MMCE(bandwidth=0)
