"""Entropies and information at their limits, and against Gaussians."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.diagnostics.diffusion_spectral_entropy import (
    diffusion_spectral_entropy,
    diffusion_spectral_information,
)
from lightning_losses.diagnostics.mahalanobis_score import mahalanobis_distances
from lightning_losses.diagnostics.mutual_information import (
    adaptive_bins,
    adaptive_edges,
    binned_information,
    fixed_bins,
    kde_entropy,
    kde_information,
    knn_entropy,
    knn_information,
    uniform_bins,
)

LABELS = torch.arange(60) % 3


def test_a_constant_layer_says_nothing_and_an_injective_one_everything():
    constant = binned_information(torch.zeros(60, 2, dtype=torch.int64), LABELS)
    assert constant == pytest.approx((0, 0, 0), abs=1e-12)
    injective = binned_information(torch.arange(60).unsqueeze(1), LABELS)
    assert injective == pytest.approx((math.log(3), math.log(60), 1))


@given(seed=st.integers(0, 1000), width=st.sampled_from([0.1, 0.5, 2.0]))
def test_information_is_bounded(seed, width):
    generator = torch.Generator().manual_seed(seed)
    found = binned_information(fixed_bins(torch.randn(60, 2, generator=generator), width), LABELS)
    assert -1e-12 <= found.label <= min(math.log(3), found.input) + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_activation_on_an_edge_is_above_it_in_every_precision(dtype):
    edges = torch.linspace(-1, 1, 30, dtype=dtype)
    assert uniform_bins(edges, 30).tolist() == list(range(1, 31))


def test_adaptive_bins_hold_equally_many_different_values():
    activity = torch.cat([torch.zeros(50), torch.arange(1, 31).float()]).unsqueeze(1)
    bins = adaptive_bins(activity, bins=10)
    _, counts = torch.unique(bins[50:], return_counts=True)
    # Bin 1 holds the resting value's; the last value is an edge of its own.
    assert (bins[:50] == 1).all() and counts.tolist() == [3] * 9 + [2, 1]
    assert adaptive_edges(torch.zeros(4, 2)).tolist() == [0]


def test_kernel_estimates_at_their_limits():
    one = kde_information(torch.zeros(60, 3), LABELS)
    assert one.input == pytest.approx(0, abs=1e-9) and one.label == pytest.approx(0, abs=1e-9)
    apart = kde_information(1e3 * torch.arange(60.0).unsqueeze(1), LABELS)
    assert apart.input == pytest.approx(math.log(60)) and apart.label == pytest.approx(math.log(3))
    points = torch.randn(40, 3)
    assert kde_entropy(points, 0.1) > kde_entropy(points, 0.1, upper=False)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_nearest_neighbours_give_a_gaussians_entropy(d):
    samples = 2 * torch.randn(2000, d)
    want = d / 2 * math.log(2 * math.pi * math.e * 4)
    # The estimator's standard deviation here is about 0.03 d.
    assert knn_entropy(samples) == pytest.approx(want, rel=0.05)


def test_nearest_neighbours_find_the_label():
    apart = 5.0 * LABELS.repeat(10).unsqueeze(1) + torch.zeros(600, 4)
    generator = torch.Generator().manual_seed(0)
    found = knn_information(apart, LABELS.repeat(10), components=1, noise=0.2, generator=generator)
    # Three clusters far apart: log 3, with the estimator's error at 600 samples.
    assert found.label == pytest.approx(math.log(3), abs=0.1)


def test_spectral_entropy_at_its_limits():
    points = torch.randn(50, 3, dtype=torch.float64)
    assert diffusion_spectral_entropy(torch.zeros(20, 3)) == pytest.approx(0, abs=1e-10)
    assert diffusion_spectral_entropy(points, bandwidth=1e-4) == pytest.approx(math.log2(50))
    entropies = [diffusion_spectral_entropy(points, bandwidth=1.0, power=power) for power in (1, 2, 4)]
    assert entropies == sorted(entropies, reverse=True) and entropies[0] < math.log2(50)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    moved = diffusion_spectral_entropy(points @ rotation + 7, bandwidth=1.0)
    assert moved == pytest.approx(entropies[0])


def test_a_label_that_is_noise_explains_no_bits():
    points, generator = torch.randn(90, 2), torch.Generator().manual_seed(0)
    clusters = points + 20 * (torch.arange(90) % 3).unsqueeze(1)
    random = diffusion_spectral_information(points, torch.arange(90) % 3, bandwidth=1.0, generator=generator)
    real = diffusion_spectral_information(clusters, torch.arange(90) % 3, bandwidth=1.0, generator=generator)
    assert abs(random) < 0.15 < 0.8 < real


def test_mahalanobis_distances_are_affine_invariant_and_have_the_dimensions_mean():
    target = torch.arange(4000) % 2
    features = torch.randn(4000, 3, dtype=torch.float64) + 4 * target.unsqueeze(1)
    query = features[target == 0][:1000]
    distances = mahalanobis_distances(features, target, query)
    # Chi-square with 3 degrees of freedom has mean 3 and variance 6.
    assert abs(distances[:, 0].mean() - 3) < 4 * (6 / 1000) ** 0.5
    turn = torch.randn(3, 3, dtype=torch.float64)
    torch.testing.assert_close(mahalanobis_distances(features @ turn + 1, target, query @ turn + 1), distances)


def test_a_constant_feature_does_not_break_the_covariance():
    features = torch.cat([torch.randn(20, 2), torch.ones(20, 1)], dim=1)
    assert mahalanobis_distances(features, torch.arange(20) % 2, features).isfinite().all()


def test_neighbours_tell_no_more_of_the_label_than_there_is():
    generator = torch.Generator().manual_seed(0)
    found = knn_information(torch.randn(40, 2, generator=generator), torch.arange(40) // 4, generator=generator)
    assert found.label <= math.log(10) + 1e-12
