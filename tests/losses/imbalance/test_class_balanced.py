import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import ClassBalanced, CrossEntropy, Focal
from lightning_losses.losses.imbalance.class_balanced import effective_number_weights

COUNTS = torch.tensor([500.0, 20.0, 1.0], dtype=torch.float64)
LOGITS = 2 * torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 2, 1, 0, 0, 1])


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_weights_from_the_definition(beta):
    weights = [(1 - beta) / (1 - beta ** float(n)) for n in COUNTS]
    expected = torch.tensor(weights, dtype=torch.float64) * 3 / sum(weights)
    torch.testing.assert_close(effective_number_weights(COUNTS, beta), expected)


def test_limits_of_beta():
    inverse = 1 / COUNTS
    # 1 - β^n of these has no digit left.
    nearly = effective_number_weights(COUNTS, 1 - 2**-52)
    torch.testing.assert_close(nearly, inverse / inverse.mean(), rtol=1e-10, atol=0)
    assert effective_number_weights(torch.full((3,), 7.0), 0.99).tolist() == [1, 1, 1]


@pytest.mark.parametrize("base_loss", ["cross_entropy", "focal", "binary_cross_entropy"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_each_base_is_weighed_from_outside(base_loss, reduction):
    loss = ClassBalanced(COUNTS, 0.99, base_loss, gamma=1.5, reduction="none")
    rows = {
        "cross_entropy": CrossEntropy(reduction="none"),
        "focal": Focal(1.5, reduction="none"),
        "binary_cross_entropy": lambda z, y: F.binary_cross_entropy_with_logits(
            z, F.one_hot(y, 3).to(z), reduction="none"
        ).sum(-1),
    }[base_loss](LOGITS, TARGET)
    weight = effective_number_weights(COUNTS, 0.99)[TARGET]
    loss.reduction = reduction
    expected = {"none": weight * rows, "sum": (weight * rows).sum(), "mean": (weight * rows).sum() / weight.sum()}
    torch.testing.assert_close(loss(LOGITS, TARGET), expected[reduction])


def test_binary_cross_entropy_keeps_every_digit():
    logits = torch.tensor([[-3.0, 21.0, 22.0]], dtype=torch.float64)
    rows = torch.logaddexp(torch.tensor([3.0, 21.0, 22.0], dtype=torch.float64), torch.zeros(()).double()).sum()
    value = ClassBalanced(COUNTS, 0.0, "binary_cross_entropy")(logits, torch.tensor([0]))
    torch.testing.assert_close(value, rows, rtol=1e-15, atol=0)


def test_weights_that_wait_are_ones():
    loss = ClassBalanced(COUNTS, 0.99)
    loss.reweights = False
    torch.testing.assert_close(loss(LOGITS, TARGET), F.cross_entropy(LOGITS, TARGET))
    assert int(loss.denominator(logits=LOGITS, target=TARGET)) == len(TARGET)


def test_the_mean_of_processes_divides_by_the_weights_of_the_kept_samples():
    target = torch.tensor([0, 2, -100, 0, 0, 1])
    weights = effective_number_weights(COUNTS, 0.99)
    mass = ClassBalanced(COUNTS, 0.99).denominator(logits=LOGITS, target=target)
    torch.testing.assert_close(mass, 3 * weights[0] + weights[1] + weights[2])
