import torch

from lightning_losses.numerics.interpolation import interpolated


def test_masks_counters_and_choices_are_copied():
    start, end = torch.tensor([0.0, -torch.inf, 1.0, -torch.inf]), torch.tensor([4.0, -torch.inf, torch.inf, 2.0])
    assert interpolated(start, end, 0.25).tolist() == [1.0, -torch.inf, torch.inf, 2.0]
    for kind in (torch.int64, torch.bool):
        assert torch.equal(interpolated(torch.tensor([0, 1]).to(kind), torch.tensor([1, 0]).to(kind), 0.1),
                           torch.tensor([1, 0]).to(kind))  # fmt: skip


def test_what_is_no_number_stays_in_sight():
    found = interpolated(torch.tensor([torch.nan, 1.0]), torch.tensor([1.0, torch.nan]), 0.5)
    assert torch.isnan(found).all()


def test_the_end_is_reached_exactly_and_is_no_view_of_it():
    end = torch.rand(100)
    found = interpolated(torch.rand(100), end, 1)
    assert torch.equal(found, end)
    found.zero_()
    assert float(end.sum()) > 0
