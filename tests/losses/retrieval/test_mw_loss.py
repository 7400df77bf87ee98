import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_losses.losses import MWLoss
from lightning_losses.losses.retrieval.mw_loss import mann_whitney_sum

GENERATOR = torch.Generator().manual_seed(0)
QUERIES, DOCUMENTS, MORE = (torch.randn(rows, 3, dtype=torch.float64, generator=GENERATOR) for rows in (4, 4, 2))


def scores(*documents):
    return F.normalize(QUERIES, dim=-1) @ F.normalize(torch.cat(documents), dim=-1).mT


def test_value_from_the_definition_and_the_bound_on_the_area():
    every = scores(DOCUMENTS, MORE)
    right = [every[i, i] for i in range(4)]
    wrong = [every[i, j] for i in range(4) for j in range(6) if i != j]
    pairs = torch.stack([torch.log1p(torch.exp((bad - good) / 0.2)) for good in right for bad in wrong])
    value = MWLoss(temperature=0.2)(QUERIES, DOCUMENTS, MORE)
    torch.testing.assert_close(value, pairs.mean())
    torch.testing.assert_close(MWLoss(temperature=0.2, over_negatives="sum")(QUERIES, DOCUMENTS, MORE), pairs.sum() / 4)
    area_over = torch.stack([(bad >= good).double() for good in right for bad in wrong]).mean()
    assert value / math.log(2) >= area_over > 0


def test_it_sees_what_is_added_to_all_scores_of_a_query_as_infonce_does_not():
    every = scores(DOCUMENTS)
    moved = every + torch.tensor([[0.5], [0.0], [0.0], [-0.5]])
    own, apart = torch.arange(4), ~torch.eye(4, dtype=torch.bool)
    torch.testing.assert_close(F.cross_entropy(moved, own), F.cross_entropy(every, own))
    before, after = (mann_whitney_sum(each.diagonal(), each[apart]) for each in (every, moved))
    assert abs(float(after - before)) > 0.1


@pytest.mark.parametrize("pairs_at_once", [1, 7, 40])
def test_parts_give_what_the_whole_gives(pairs_at_once):
    def slopes(**options):
        leaves = [each.clone().requires_grad_() for each in (QUERIES, DOCUMENTS, MORE)]
        value = MWLoss(temperature=0.2, **options)(*leaves)
        return value.detach(), torch.autograd.grad(value, leaves)

    torch.testing.assert_close(slopes(pairs_at_once=pairs_at_once), slopes())


def test_parts_hold_no_more_than_they_are_said_to():
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            nonlocal largest
            result = operation(*args, **(kwargs or {}))
            largest = max([largest, *(each.numel() for each in tree_leaves(result) if isinstance(each, torch.Tensor))])
            return result

    leaves = [torch.randn(16, 3, requires_grad=True) for _ in range(2)]
    with Watch():
        # 16 right pairs, 240 wrong ones, 3840 differences.
        MWLoss(pairs_at_once=64)(*leaves).backward()
    assert largest == 16 * 16


def test_second_derivatives_of_parts_are_refused():
    right = torch.zeros(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="mw_loss: second derivatives .* give a larger pairs_at_once"):
        torch.autograd.grad(mann_whitney_sum(right, torch.zeros(3), 2), right, create_graph=True)


def test_vectors_without_a_number_are_refused():
    with pytest.raises(
        ValueError, match=r"embeddings of shape \[4, 0\] came; give vectors \[B, D\] with D of at least 1"
    ):
        MWLoss()(QUERIES[:, :0], DOCUMENTS[:, :0])


def test_a_vector_of_length_0_learns_nothing():
    rows = torch.randn(8, 4)
    rows[0] = 0
    rows.requires_grad_()
    gradient = torch.autograd.grad(MWLoss()(rows, torch.randn(8, 4)), rows)[0]
    assert (gradient[0] == 0).all() and (gradient[1:] != 0).any()
