import pytest
import torch

from lightning_losses.data.selfmix import selfmix


def crops(seed):
    generator = torch.Generator().manual_seed(seed)
    one, zero = torch.ones(3, 2, 9, 6), torch.zeros(3, 2, 9, 6)
    first, second = (torch.rand(3, 5, generator=generator) for _ in range(2))
    labels = [label / label.sum(dim=1, keepdim=True) for label in (first, second)]
    return selfmix(one, zero, *labels, generator=generator), labels


def test_labels_are_mixed_by_the_area_that_was_kept():
    shares = set()
    for seed in range(20):
        mixed, (first, second) = crops(seed)
        share = mixed.inputs[0].mean().item()
        assert mixed.kept_share == pytest.approx(share)
        torch.testing.assert_close(mixed.target, share * first + (1 - share) * second)
        torch.testing.assert_close(mixed.target.sum(dim=1), torch.ones(3))
        # One box for all samples and channels.
        assert torch.equal(mixed.inputs, mixed.inputs[:1, :1].expand_as(mixed.inputs))
        shares.add(round(share, 6))
    assert len(shares) > 5


def test_the_inputs_stay_as_they_are():
    inputs = torch.ones(1, 1, 4, 4)
    label = torch.ones(1, 1)
    for seed in range(5):
        selfmix(inputs, 0 * inputs, label, label, generator=torch.Generator().manual_seed(seed))
    assert bool((inputs == 1).all())


def test_crops_that_do_not_fit_are_refused():
    label = torch.ones(1, 1)
    with pytest.raises(ValueError, match="^selfmix: crops of shapes"):
        selfmix(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 5, 5), label, label)
