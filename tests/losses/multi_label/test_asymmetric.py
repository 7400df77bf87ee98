import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import Asymmetric
from tests.losses.strategies import gradient

LOGITS = torch.linspace(-4, 4, 12, dtype=torch.float64).reshape(3, 4)
LABELS = torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 1, 0.3]], dtype=torch.float64)


def test_value_from_the_definition():
    total = 0.0
    for z, t in zip(LOGITS[:2].flatten().tolist(), LABELS[:2].flatten().tolist(), strict=True):
        p = torch.tensor(z).double().sigmoid()
        q = min(1 - p + 0.1, torch.ones(()))
        total -= (1 - p) ** 2 * p.log() if t else (1 - q) ** 3 * q.log()
    loss = Asymmetric(gamma_pos=2.0, gamma_neg=3.0, clip=0.1, reduction="sum")
    torch.testing.assert_close(loss(LOGITS[:2], LABELS[:2]), total)


def test_without_focus_and_clip_it_is_binary_cross_entropy():
    loss = Asymmetric(gamma_pos=0.0, gamma_neg=0.0, clip=0.0)
    expected = F.binary_cross_entropy_with_logits(LOGITS, LABELS, reduction="none").sum(dim=-1).mean()
    torch.testing.assert_close(loss(LOGITS, LABELS), expected)


def test_a_label_that_is_lacking_and_unlikely_costs_nothing():
    logits = torch.tensor([[-3.0, -9.0]])  # 0.0474 and less
    assert Asymmetric()(logits, torch.zeros(1, 2)).item() == 0
    assert bool((gradient(Asymmetric(), logits, torch.zeros(1, 2)) == 0).all())


def test_the_focusing_weight_is_a_constant_unless_it_is_asked_for():
    cut, whole = (gradient(Asymmetric(detach_focal=detach), LOGITS, LABELS) for detach in (True, False))
    p = LOGITS[0, 0].sigmoid()
    # One term of the mean: -(1 - p) log p.
    torch.testing.assert_close(cut[0, 0], -((1 - p) ** 2) / 3)
    torch.testing.assert_close(whole[0, 0], (p * (1 - p) * p.log() - (1 - p) ** 2) / 3)


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_far_logits_keep_a_gradient(clip):
    """A bound of probabilities from below would end it."""
    slope = gradient(Asymmetric(clip=clip), torch.tensor([[-80.0]]), torch.ones(1, 1))
    assert slope.item() == pytest.approx(-1.0)
