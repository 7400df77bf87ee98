import pytest
import torch

from lightning_losses.losses import BarlowTwins, MixedBarlowTwins

GENERATOR = torch.Generator().manual_seed(0)
A, B, MIXED = (torch.randn(7, 3, dtype=torch.float64, generator=GENERATOR) for _ in range(3))
ORDER, SHARE = torch.randperm(7, generator=GENERATOR), torch.full((7,), 0.3, dtype=torch.float64)


def standardised(view):
    return (view - view.mean(dim=0)) / view.std(dim=0)


def test_value_from_the_definition():
    a, b, m = map(standardised, (A, B, MIXED))
    mixing = sum((m.T @ view / 7 - (0.3 * a.T @ view + 0.7 * b[ORDER].T @ view) / 7).square().sum() for view in (a, b))
    expected = BarlowTwins(0.1, "unbiased")(A, B) + 2.0 * 0.1 * mixing
    torch.testing.assert_close(MixedBarlowTwins(0.1, 2.0)(A, B, MIXED, B[ORDER], SHARE), expected)


def test_mixtures_that_are_mixed_features_cost_nothing():
    # Of standardised features the mixture is standardised but for its own deviation, so that of one share is tried.
    plain = BarlowTwins(0.005, "unbiased")(A, B)
    torch.testing.assert_close(MixedBarlowTwins()(A, B, A, B[ORDER], torch.ones(7)), plain)
    torch.testing.assert_close(MixedBarlowTwins()(A, B, B[ORDER], B[ORDER], torch.zeros(7)), plain)
    assert MixedBarlowTwins()(A, B, MIXED, B[ORDER], SHARE) > plain


def test_a_share_for_each_sample_is_asked_for():
    with pytest.raises(ValueError) as caught:
        MixedBarlowTwins()(A, B, MIXED, B, torch.ones(3))
    assert str(caught.value) == (
        "mixed_barlow_twins: mix_share of shape [3] came with 7 samples; give a share for each."
    )
    with pytest.raises(ValueError) as caught:
        MixedBarlowTwins()(A, B, MIXED, B, 2 * torch.ones(7))
    assert str(caught.value) == "mixed_barlow_twins: mix_share holds 2; give numbers in [0, 1]."
