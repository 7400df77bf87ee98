import itertools

import pytest
import torch

from lightning_losses import Triplet
from tests.losses.contrastive.cases import classed


def every_triplet(embeddings, target, margin):
    """The violation, and how much farther the negative is, of each triplet by its anchor, formed one by one."""
    unit = embeddings / embeddings.norm(dim=-1, keepdim=True)
    triplets = {}
    for a, p, n in itertools.product(range(len(target)), repeat=3):
        if a != p and target[a] == target[p] and target[a] != target[n]:
            gap = (unit[a] - unit[n]).norm() - (unit[a] - unit[p]).norm()
            triplets.setdefault(a, []).append((torch.relu(margin - gap), gap))
    return triplets


@pytest.mark.parametrize("average", ["nonzero", "all"])
@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])
def test_it_is_the_mean_over_triplets(mining, average):
    embeddings, target = classed()
    of_anchors = every_triplet(embeddings, target, 0.3)
    if mining == "hard":
        values = [max(value for value, _ in triplets) for triplets in of_anchors.values()]
    else:
        values = [
            value for triplets in of_anchors.values() for value, gap in triplets if mining == "all" or 0 < gap < 0.3
        ]
    counted = [value for value in values if average == "all" or value > 0]
    assert len(counted) > 2
    expected = torch.stack(counted).mean()
    torch.testing.assert_close(Triplet(margin=0.3, mining=mining, average=average)(embeddings, target), expected)


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])
def test_all_values_grow_as_the_margin_does(mining):
    embeddings, target = classed(seed=1)
    narrow, wide = (Triplet(margin=margin, mining=mining)(embeddings, target) for margin in (0.2, 0.2 + 1e-7))
    torch.testing.assert_close((wide - narrow) / 1e-7, torch.ones(()).double(), rtol=1e-7, atol=0)


def test_classes_that_lie_apart_cost_nothing():
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.01, 1.0]], requires_grad=True)
    loss = Triplet()(embeddings, torch.tensor([0, 0, 1, 1]))
    assert loss == 0
    assert not torch.autograd.grad(loss, embeddings)[0].any()


@pytest.mark.parametrize("target", [[0, 0, 0, 0], [0, 1, 2, 3]], ids=["one class", "classes of one"])
def test_a_batch_without_triplets_is_0(target):
    assert Triplet()(classed(samples=4)[0], torch.tensor(target)) == 0


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])
def test_copies_and_zero_vectors_have_finite_gradients(mining):
    embeddings = torch.zeros(6, 3)
    embeddings[:3] = torch.tensor([1.0, 2.0, 3.0])
    embeddings.requires_grad_()
    loss = Triplet(mining=mining)(embeddings, torch.tensor([0, 0, 1, 0, 1, 1]))
    assert torch.autograd.grad(loss, embeddings)[0].isfinite().all()


def test_an_unknown_mining_is_refused():
    with pytest.raises(ValueError) as refusal:
        Triplet(mining="easy")
    assert str(refusal.value) == "triplet: mining='easy' came; choose one of 'all', 'semi_hard', 'hard'."


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])
def test_collapsed_embeddings_have_a_gradient_in_float32(mining):
    """As a network's are before training: distances of a thousandth of the lengths."""
    embeddings, target = classed(samples=60, dim=8, classes=5)
    embeddings = 1 + 1e-3 * embeddings

    def gradient(given):
        leaf = given.requires_grad_()
        return torch.autograd.grad(Triplet(mining=mining)(leaf, target), leaf)[0].double()

    exact, rounded = gradient(embeddings.clone()), gradient(embeddings.float())
    assert (rounded - exact).norm() < 1e-2 * exact.norm()
