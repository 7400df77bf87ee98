import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses import ClipContrastive, NTXent


def scores(a, b, temperature):
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / temperature


@pytest.mark.parametrize("direction", ["both", "forward"])
def test_each_picks_its_partner(direction):
    a, b = torch.randn(2, 6, 4, dtype=torch.float64)
    s, own = scores(a, b, 0.2), torch.arange(6)
    expected = F.cross_entropy(s, own)
    if direction == "both":
        expected = (expected + F.cross_entropy(s.T, own)) / 2
    torch.testing.assert_close(ClipContrastive(0.2, direction=direction)(a, b), expected)


def test_copies_are_no_negatives_and_ignored_samples_none_at_all():
    a, b = torch.randn(2, 5, 4, dtype=torch.float64)
    target = torch.tensor([3, 3, 7, -100, 8])
    s = scores(a, b, 0.2)
    s[0, 1] = s[1, 0] = -torch.inf
    kept = torch.tensor([0, 1, 2, 4])
    s, own = s[kept][:, kept], torch.arange(4)
    expected = (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2
    b[3] = torch.nan
    torch.testing.assert_close(ClipContrastive(0.2)(a, b, target), expected)


def test_a_learned_temperature_begins_as_given_and_is_bounded():
    a, b = torch.randn(2, 5, 4)
    loss = ClipContrastive(0.2, learned=True)
    value = loss(a, b)
    torch.testing.assert_close(value, ClipContrastive(0.2)(a, b))
    gradient = torch.autograd.grad(value, loss.log_scale)[0][0]
    step = 1e-3
    slope = (ClipContrastive(0.2 * math.exp(-step))(a, b) - ClipContrastive(0.2 * math.exp(step))(a, b)) / (2 * step)
    torch.testing.assert_close(gradient, slope, rtol=1e-2, atol=1e-4)
    with torch.no_grad():
        loss.log_scale.fill_(20.0)
    value = loss(a, b)
    torch.testing.assert_close(value, ClipContrastive(0.01)(a, b))
    # At the bound it still learns.
    assert torch.autograd.grad(value, loss.log_scale)[0] != 0
    with pytest.raises(ValueError, match="temperature=0.005 came with learned=True"):
        ClipContrastive(0.005, learned=True)


@pytest.mark.parametrize("loss", [ClipContrastive(0.01), NTXent(0.01)], ids=["clip", "nt_xent"])
def test_small_values_are_exact_in_single_precision(loss):
    a = torch.randn(40, 8, dtype=torch.float64)
    b = a + 0.2 * torch.randn(40, 8, dtype=torch.float64)
    expected, value = loss(a, b), loss(a.float(), b.float())
    assert 1e-12 < expected < 1e-2
    # Scores of up to 100 are off by up to 1e-5 in float32, and so is, relatively, a small exponential of their gap.
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0)
