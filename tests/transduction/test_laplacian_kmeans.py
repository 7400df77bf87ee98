import pytest
import torch

from lightning_losses.transduction import LaplacianKMeans
from lightning_losses.transduction.laplacian_kmeans import bound_updates, laplacian_energy, neighbour_affinity


def clusters(apart=6.0, spread=1.0, each=20):
    random = torch.Generator().manual_seed(0)
    target = torch.arange(3 * each) % 3
    return spread * torch.randn(3 * each, 4, generator=random) + apart * torch.eye(4)[target], target


@pytest.mark.parametrize("prototypes", ["mean", "mode"])
@pytest.mark.parametrize("clamp", ["every", "start"])
def test_clear_clusters_are_found_exactly_from_one_sample_each(prototypes, clamp):
    x, target = clusters(apart=12.0)
    found = LaplacianKMeans(prototypes=prototypes, clamp=clamp)(x[:3], target[:3] + 5, x[3:])
    assert torch.equal(found.label, target[3:] + 5)
    torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(57, dtype=torch.float64))


def test_neighbours_decide_where_prototypes_hardly_do():
    # By itself the third sample is rather of the second class; its neighbours are of the first.
    unary, known = torch.tensor([[0.0, 9.0], [9.0, 0.0], [1.2, 1.0], [0.0, 1.5]]).double(), torch.eye(2).double()
    affinity = torch.zeros(4, 4, dtype=torch.float64)
    affinity[2, [0, 3]] = affinity[[0, 3], 2] = 1.0
    labels = [bound_updates(unary, affinity, laplacian, known)[0].argmax(dim=1).tolist() for laplacian in (0.0, 0.5)]
    assert labels == [[0, 1, 1, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize("every", [True, False])
def test_the_energy_falls_where_the_affinity_is_symmetric_and_positive_semidefinite(every):
    random = torch.Generator().manual_seed(1)
    x = torch.randn(30, 3, generator=random, dtype=torch.float64)
    affinity, unary = torch.exp(-torch.cdist(x, x).square()), 3 * torch.rand(30, 4, generator=random).double()
    known = torch.eye(4, dtype=torch.float64)
    assigned, energies = bound_updates(unary, affinity, 0.9, known, every=every)
    # Labelled samples that are let go after the start may raise the first one.
    falling = torch.stack(energies[0 if every else 1 :]).diff()
    assert len(energies) > 5 and (falling <= 1e-12).all()
    torch.testing.assert_close(laplacian_energy(assigned, unary, affinity, 0.9), energies[-1])
    assert torch.equal(assigned[:4], known) == every
    # A minimum: the last step's fixed point.
    torch.testing.assert_close(
        assigned[4:], torch.softmax(0.9 * affinity @ assigned - unary, dim=1)[4:], rtol=1e-2, atol=1e-3
    )


def test_without_neighbours_it_is_soft_k_means():
    x, target = clusters(apart=1.0)
    found = LaplacianKMeans(0.0, normalise=False)(x[:6], target[:6], x[6:])
    known, rest = torch.eye(3, dtype=torch.float64)[target[:6]], x.double()
    prototypes = torch.stack([rest[:6][target[:6] == k].mean(dim=0) for k in range(3)])
    for _ in range(len(found.energies)):
        assigned = torch.cat([known, torch.softmax(-torch.cdist(rest[6:], prototypes).square(), dim=1)])
        prototypes = (assigned / assigned.sum(dim=0)).T @ rest
    torch.testing.assert_close(found.probabilities, assigned[6:])
    assert (found.energies.diff() <= 1e-12).all()


def test_neighbours_are_the_nearest_others():
    x = torch.tensor([[0.0], [1.0], [1.5], [9.0]])
    one_way = neighbour_affinity(x, 2, symmetric=False)
    assert one_way.tolist() == [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0]]
    assert torch.equal(neighbour_affinity(x, 2), (one_way + one_way.T) / 2)


@pytest.mark.parametrize(
    ("support", "target", "queries"),
    [
        (torch.ones(2, 3), [0, 1], torch.ones(4, 2)),
        (torch.ones(2, 3), [1, 1], torch.ones(4, 3)),
        (torch.ones(2, 3), [0, 1], torch.full((4, 3), torch.nan)),
    ],
    ids=["width", "one class", "nan"],
)
def test_what_can_not_be_clustered_is_refused(support, target, queries):
    with pytest.raises(ValueError, match="give finite features of the same width, and two classes at least"):
        LaplacianKMeans()(support, torch.tensor(target), queries)


def test_a_class_that_loses_all_its_members_keeps_its_prototype():
    # The third class's mean lies between its samples, which each are another's.
    support = torch.tensor([[-100.0], [100.0], [-100.0], [100.0]])
    found = LaplacianKMeans(0.0, clamp="start", normalise=False)(
        support, torch.tensor([0, 1, 2, 2]), torch.tensor([[-99.0], [99.0]])
    )
    assert found.label.tolist() == [0, 1] and found.probabilities.isfinite().all()


def test_clusters_far_from_the_origin_are_the_same():
    x, target = (part[:40] for part in clusters(apart=1.0))
    near, far = (LaplacianKMeans(normalise=False)(y[:3], target[:3], y[3:]) for y in (x.double(), x.double() + 2**26))
    torch.testing.assert_close(near.probabilities, far.probabilities, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "scale", "target", "words"),
    [
        ({"normalise": False}, 1e200, [0, 1, 2], "overflow"),
        ({"laplacian": 1e308}, 1.0, [0, 1, 2], "overflow"),
        ({}, 1.0, [0, 1, -100], "a target of -100 came"),
    ],
    ids=["features", "laplacian", "ignored"],
)
def test_it_gives_no_nan_and_no_class_for_samples_without(options, scale, target, words):
    x = clusters()[0].double() * scale
    with pytest.raises(ValueError, match=words):
        LaplacianKMeans(**options)(x[:3], torch.tensor(target), x[3:])
