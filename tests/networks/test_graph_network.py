import pytest
import torch
import torch.nn.functional as F

from lightning_losses.networks.graph_network import Between, GraphNetwork, adjacency_bounds, normalised_adjacency

GENERATOR = torch.Generator().manual_seed(0)
NODES = 9
ADJACENCY = (torch.rand(NODES, NODES, generator=GENERATOR) < 0.6).double().triu(1)
ADJACENCY = ADJACENCY + ADJACENCY.T
INPUTS = torch.randn(NODES, 4, dtype=torch.float64, generator=GENERATOR)


def dropped(share):
    """A graph that lacks up to a share of each node's edges, one of which stays."""
    left = ADJACENCY.clone()
    degree = ADJACENCY.sum(dim=1)
    most = torch.minimum((degree * share).round(), (degree - 1).clamp(min=0))
    edges = ADJACENCY.triu(1).nonzero()
    for i, j in edges[torch.randperm(len(edges), generator=GENERATOR)].tolist():
        if all(degree[k] - left[k].sum() < most[k] for k in (i, j)):
            left[i, j] = left[j, i] = 0
    return left


def network(slope=0.0):
    torch.manual_seed(0)
    return GraphNetwork(4, 6, 3, slope).double()


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_weights_of_graphs_with_fewer_edges_lie_within_their_bounds(share):
    low, high = adjacency_bounds(ADJACENCY, share)
    for _ in range(5):
        weights = normalised_adjacency(dropped(share))
        assert bool((low <= weights + 1e-12).all() and (weights <= high + 1e-12).all())
    if share == 0:
        torch.testing.assert_close(low, high)


@pytest.mark.parametrize("slope", [0.0, 0.25])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_score_is_a_lower_bound_of_the_difference(slope, share):
    model = network(slope)
    for _ in range(4):
        view, second = dropped(share), dropped(share)
        z, other = model(INPUTS, view), F.normalize(model(INPUTS, second))
        wanted = torch.stack([z[i] @ (other[i] - other[torch.arange(NODES) != i].mean(dim=0)) for i in range(NODES)])
        score = model.compactness(INPUTS, ADJACENCY, view, model(INPUTS, second), share)
        assert bool((score <= wanted + 1e-9).all())
        if share == 0:
            # Then no unit can be on both sides of 0.
            torch.testing.assert_close(score, wanted)
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(score.sum(), model.parameters()))


def test_lines_bound_the_activation():
    model = network(0.1)
    low = torch.tensor([-2.0, -3.0, 0.5, -1.0, 0.0], dtype=torch.float64)
    high = torch.tensor([1.0, -1.0, 2.0, 4.0, 0.0], dtype=torch.float64)
    slope, offset = model._lines(Between(low, high))
    for share in torch.linspace(0, 1, 11):
        z = low + share * (high - low)
        value = F.leaky_relu(z, 0.1)
        assert bool((slope * z <= value + 1e-12).all() and (value <= slope * (z + offset) + 1e-12).all())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError) as error:
        network().compactness(INPUTS[:1], ADJACENCY[:1, :1], ADJACENCY[:1, :1], INPUTS[:1, :3])
    assert str(error.value) == "graph_network: 1 nodes came; give at least two."
