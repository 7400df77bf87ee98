import itertools

import pytest
import torch

from lightning_losses import EnergyConfusion
from tests.losses.contrastive.cases import classed


def test_it_is_the_logarithm_of_both_kinds_of_pairs():
    embeddings, target = classed()
    pairs = {True: [], False: []}
    for i, j in itertools.combinations(range(12), 2):
        pairs[bool(target[i] == target[j])].append((embeddings[i] - embeddings[j]).square().sum() / 2)
    expected = sum(torch.stack(kind).mean() for kind in pairs.values()).log()
    torch.testing.assert_close(EnergyConfusion()(embeddings, target), expected)


def test_scale_is_added_as_a_logarithm_and_shifts_do_not_matter():
    embeddings, target = classed()
    loss = EnergyConfusion()
    moved = loss(3 * embeddings + 5, target)
    torch.testing.assert_close(moved, loss(embeddings, target) + 2 * torch.tensor(3.0).double().log())


@pytest.mark.parametrize(("samples", "expected"), [(4, torch.finfo(torch.float32).tiny), (1, 1.0)])
def test_equal_embeddings_and_no_pairs_are_finite(samples, expected):
    embeddings = torch.ones(samples, 3, requires_grad=True)
    loss = EnergyConfusion()(embeddings, torch.arange(samples) // 2)
    torch.testing.assert_close(loss, torch.tensor(expected).log())
    assert not torch.autograd.grad(loss, embeddings)[0].any()
