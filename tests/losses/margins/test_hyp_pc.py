import math

import pytest
import torch

from lightning_losses.losses import HypPC
from lightning_losses.numerics.poincare import into_ball, poincare_distance

EMBEDDINGS = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_halves_of_each_class_are_paired():
    points, loss = into_ball(EMBEDDINGS, 0.5), HypPC(0.5, clip_radius=None)
    pairs = poincare_distance(points[[0, 1, 0]], points[[2, 3, 1]], 0.5)
    torch.testing.assert_close(loss(EMBEDDINGS, torch.tensor([4, 1, 4, 1, 4])), pairs[:2].sum() / 5)
    torch.testing.assert_close(loss(EMBEDDINGS, torch.zeros(5, dtype=torch.int64)), pairs[:2].sum() / 5)
    torch.testing.assert_close(loss(EMBEDDINGS, torch.tensor([1, 1, 0, 2, -100])), pairs[2] / 4)
    assert loss(EMBEDDINGS, torch.arange(5)) == 0


def test_the_gradient_is_scaled_by_the_metric():
    points, target, slopes = into_ball(EMBEDDINGS[:2], 0.5), torch.zeros(2, dtype=torch.int64), []
    for scaled in (True, False):
        leaf = EMBEDDINGS[:2].clone().requires_grad_()
        value = HypPC(0.5, clip_radius=None, riemannian_gradient=scaled)(leaf, target)
        slopes.append(torch.autograd.grad(value, leaf)[0])
    factor = ((1 - 0.5 * points.square().sum(dim=1, keepdim=True)) / 2).square()
    torch.testing.assert_close(slopes[0], factor * slopes[1])


def test_distances_of_the_ball():
    points = into_ball(EMBEDDINGS, 1.0)
    first, second = points[:2], points[2:4]
    there = poincare_distance(first, second, 1.0)
    torch.testing.assert_close(there, poincare_distance(second, first, 1.0))
    # Written another way.
    apart, rims = (first - second).square().sum(dim=1), [1 - x.square().sum(dim=1) for x in (first, second)]
    torch.testing.assert_close(there, torch.acosh(1 + 2 * apart / (rims[0] * rims[1])), rtol=1e-3, atol=0)
    near = into_ball(1e-3 * EMBEDDINGS, 0.1)
    euclidean = 2e-3 * (EMBEDDINGS[0] - EMBEDDINGS[1]).norm()
    assert poincare_distance(near[:1], near[1:2], 0.1).item() == pytest.approx(euclidean.item(), rel=1e-4)


def test_equal_points_and_the_rim_have_finite_gradients():
    embeddings = torch.tensor([[1e4, 0.0], [1e4, 0.0], [0.0, 0.0], [-1e4, 0.0]], requires_grad=True)
    loss = HypPC(1.0, clip_radius=None)
    for target in ([0, 0, 1, 1], [0, 1, 1, 0]):
        value = loss(embeddings, torch.tensor(target))
        (slope,) = torch.autograd.grad(value, embeddings)
        assert math.isfinite(value.item()) and bool(slope.isfinite().all())
    assert loss(embeddings[:2], torch.tensor([0, 0])) == 0


@pytest.mark.parametrize("clip_radius", [2.0, None])
@pytest.mark.parametrize("length", [1e15, 1e25, 1e37])
def test_long_vectors_are_at_the_rim_or_cut_as_others_are(length, clip_radius):
    loss, target = HypPC(clip_radius=clip_radius), torch.tensor([0, 0])
    exact = torch.tensor([[1.0, 2.0], [-2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    given = (length * exact.detach()).float().requires_grad_()
    value = loss(given, target)
    expected = loss(1e5 * exact, target)
    # At the rim a distance has four digits in float32.
    torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=0)
    if clip_radius is not None:
        value.backward()
        expected.backward()
        torch.testing.assert_close(length * given.grad.double(), exact.grad, rtol=1e-3, atol=0)
