import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import BiTempered
from lightning_losses.numerics.tempered import tempered_log_probabilities
from tests.losses.noisy_labels.cases import CLASSES, sample, slope


def probabilities(logits, t):
    """By bisection of λ."""
    largest = logits.amax(-1, keepdim=True)
    low, high = largest - 1 / (t - 1) + 1e-12, largest + 1e4
    for _ in range(200):
        middle = (low + high) / 2
        p = (1 + (1 - t) * (logits - middle)) ** (1 / (1 - t))
        more = p.sum(-1, keepdim=True) > 1
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return p


@pytest.mark.parametrize(("t1", "t2"), [(0.8, 1.2), (0.0, 4.0), (0.3, 2.0)])
def test_value_and_gradient_from_the_definition(t1, t2):
    logits, target, _ = sample()
    p, y = probabilities(logits, t2), 0.7 * F.one_hot(target, CLASSES).double() + 0.3 / CLASSES
    log = lambda u: (u ** (1 - t1) - 1) / (1 - t1)  # noqa: E731
    expected = y * (log(y) - log(p)) - (y ** (2 - t1) - p ** (2 - t1)) / (2 - t1)
    loss = BiTempered(t1=t1, t2=t2, reduction="none")
    torch.testing.assert_close(loss(logits, y), expected.sum(-1))
    # The closed form of the authors.
    pull, escort = (p - y) * p ** (t2 - t1), p**t2 / (p**t2).sum(-1, keepdim=True)
    torch.testing.assert_close(slope(loss, logits, y), pull - escort * pull.sum(-1, keepdim=True))


def test_at_temperatures_1_it_is_cross_entropy():
    logits, target, _ = sample()
    for t2 in (1.0, 1 + 1e-10):
        torch.testing.assert_close(BiTempered(t1=1.0, t2=t2)(logits, target), F.cross_entropy(logits, target))


def test_label_smoothing_goes_to_the_other_classes():
    logits, target, _ = sample()
    soft = torch.full((len(target), CLASSES), 0.2 / (CLASSES - 1), dtype=torch.float64)
    soft.scatter_(-1, target.unsqueeze(-1), 0.8)
    torch.testing.assert_close(BiTempered(label_smoothing=0.2)(logits, target), BiTempered()(logits, soft))


def test_it_is_bounded_and_0_at_the_target():
    logits = torch.tensor([[1e4, 0.0, 0.0], [0.0, -torch.inf, 0.0]], dtype=torch.float64)
    loss = BiTempered(t1=0.5, t2=1.5, reduction="none")
    assert (loss(logits, torch.tensor([1, 1])) <= 1 / (1 - 0.5)).all()
    assert slope(loss, logits, torch.tensor([1, 1])).isfinite().all()
    y = tempered_log_probabilities(logits, 1.5).exp()
    torch.testing.assert_close(loss(logits, y), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
