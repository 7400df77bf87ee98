import math

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.losses import PAMC

GENERATOR = torch.Generator().manual_seed(0)
Z = torch.randn(6, 3, dtype=torch.float64, generator=GENERATOR)
CLUSTER = torch.tensor([4, 0, 4, 9, 0, 4])
EDGES = torch.rand(6, 6, dtype=torch.float64, generator=GENERATOR).triu(1).masked_fill(torch.eye(6).roll(1, 1) > 0, 0)
EDGES = EDGES + EDGES.T


def test_value_from_the_definition():
    near = [
        math.log(sum(float(EDGES[i, j] * (2 * F.cosine_similarity(Z[i], Z[j], dim=0)).exp()) for j in range(6)) + 1e-10)
        for i in range(6)
    ]
    sums = [Z[c == CLUSTER].sum(dim=0) for c in (0, 4, 9)]
    far = [
        math.log(sum(1.0 if a is b else float((2 * F.cosine_similarity(a, b, dim=0)).exp()) for b in sums) + 1e-10)
        for a in sums
    ]
    expected = sum(far) / 3 - sum(near) / 6
    assert PAMC(t=2.0)(Z, CLUSTER, EDGES).item() == pytest.approx(expected)


def test_clusters_are_named_by_anything_and_one_has_no_other():
    assert PAMC()(Z, CLUSTER, EDGES) == PAMC()(Z, -CLUSTER, EDGES)
    alone = PAMC()(Z, torch.zeros(6, dtype=torch.int64), EDGES)
    torch.testing.assert_close(alone, -((EDGES * (F.normalize(Z) @ F.normalize(Z).T).exp()).sum(dim=1)).log().mean())


def test_a_node_without_edges_and_a_cluster_that_adds_up_to_0_have_numbers():
    z = torch.cat([Z[:2], -Z[:2]]).requires_grad_()
    value = PAMC()(z, torch.tensor([0, 1, 0, 2]), torch.zeros(4, 4).double())
    assert value.item() == pytest.approx(-math.log(1e-10) + 0.6, abs=0.6)
    assert torch.autograd.grad(value, z)[0].isfinite().all()


def test_an_adjacency_of_other_nodes_is_refused():
    with pytest.raises(ValueError) as error:
        PAMC()(Z, CLUSTER, EDGES[:5])
    told = "adjacency of shape [5, 6] came with 6 embeddings; give a row and a column for each."
    assert str(error.value) == f"pamc: {told}"
    with pytest.raises(ValueError, match="^pamc: adjacency holds -1; give numbers of at least 0"):
        PAMC()(Z, CLUSTER, -torch.ones_like(EDGES))


def test_a_factor_whose_exponential_would_overflow_is_refused():
    with pytest.raises(ValueError, match="t=100.0 came; give a number above 0 and at most 50"):
        PAMC(t=100.0)
    assert PAMC(t=50.0)(Z.float(), CLUSTER, EDGES.float()).isfinite()
