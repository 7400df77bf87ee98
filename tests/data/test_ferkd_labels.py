import pytest
import torch

from lightning_losses.data.ferkd_labels import ferkd_labels

TEACHER = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
TARGET = torch.arange(20) % 4


def test_without_thresholds_it_is_the_teacher():
    adapted = ferkd_labels(TEACHER, TARGET, low=0.0, middle=0.0)
    assert torch.equal(adapted.target, TEACHER)
    assert bool((adapted.weight == 1).all())


def test_each_range_gets_its_label():
    adapted = ferkd_labels(TEACHER, TARGET, low=0.4, middle=0.6, smoothing=0.2)
    sure = TEACHER.amax(dim=-1)
    assert {bool(x) for x in sure < 0.4} == {bool(x) for x in (sure >= 0.4) & (sure < 0.6)} == {True, False}
    assert torch.equal(adapted.weight, (sure >= 0.4).float())
    hard = torch.full((20, 4), 0.05).scatter(1, TARGET.unsqueeze(1), 0.85)
    torch.testing.assert_close(adapted.target[sure < 0.6], hard[sure < 0.6])
    assert torch.equal(adapted.target[sure >= 0.6], TEACHER[sure >= 0.6])
    torch.testing.assert_close(adapted.target.sum(dim=-1), torch.ones(20))


def test_thresholds_belong_to_the_range_above_them():
    teacher = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    adapted = ferkd_labels(teacher, torch.tensor([0, 0]), low=0.5, middle=0.75)
    assert torch.equal(adapted.target[0], teacher[0]) and adapted.weight.tolist() == [1, 1]
    torch.testing.assert_close(adapted.target[1], torch.tensor([0.95, 0.05]))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="^ferkd_labels: middle=0.1"):
        ferkd_labels(TEACHER, TARGET, low=0.3, middle=0.1)
    with pytest.raises(ValueError, match="^ferkd_labels: target of shape"):
        ferkd_labels(TEACHER, TARGET[:3], low=0.0, middle=0.1)
