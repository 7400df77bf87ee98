import pytest
import torch

from lightning_losses import GumbelConceptLoss
from lightning_losses.numerics import counter_random


def views(samples=6):
    return torch.randn(2, samples, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()


@pytest.mark.parametrize("entries", ["diagonal", "all"])
def test_without_noise_it_is_the_symmetric_contrast(entries):
    a, b = views()
    scores = torch.cosine_similarity(a[:, None], b, dim=-1) / 0.5
    values = [-(scores / 2).log_softmax(dim=dim) for dim in (0, 1)]
    expected = sum((value.diagonal() if entries == "diagonal" else value).mean() for value in values) / 2
    loss = GumbelConceptLoss(temperature=0.5, gumbel_temperature=2.0, entries=entries).eval()
    torch.testing.assert_close(loss(a, b, step=0), expected)


def test_the_seed_and_the_step_decide_about_the_noise():
    values = [GumbelConceptLoss(loss_seed=seed)(*views(), step=step) for seed in (0, 1) for step in (0, 1)]
    assert len(set(map(float, values))) == 4
    assert GumbelConceptLoss()(*views(), step=1) == values[1]


@pytest.mark.parametrize("bits", [0, -1])
def test_the_noise_is_finite_at_the_ends_of_its_range(bits, monkeypatch):
    monkeypatch.setattr(counter_random, "_mix", lambda numbers: torch.full_like(numbers, bits))
    assert GumbelConceptLoss()._noisy(torch.zeros(2, 2), 0, 0).isfinite().all()


def test_picks_under_the_noise_are_as_likely_as_softmax_says():
    """What Gumbel noise is for."""
    loss, scores = GumbelConceptLoss(), torch.tensor([[0.0, 1.0, 2.0]]).repeat(20000, 1)
    picked = loss._noisy(scores, 3, 0).argmax(dim=1).bincount() / 20000
    torch.testing.assert_close(picked, scores[0].softmax(dim=0), rtol=0, atol=0.015)
