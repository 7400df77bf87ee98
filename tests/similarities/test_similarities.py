"""Tiles of a few pairs give what the whole matrix gives, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F

from lightning_losses.similarities import (
    kth_largest_similarity,
    partner_cross_entropy,
    similarity_logsumexp,
    similarity_softplus,
    tiles,
    two_way_logsumexp,
)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "DENSE", 0)
    monkeypatch.setattr(tiles, "_width", lambda device: 4)


def data(rows=11, columns=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 5, generator=generator, dtype=dtype).requires_grad_() for n in (rows, columns))
    identities = [torch.randint(0, 3, (n,), generator=generator) for n in (rows, columns)]
    kept = [torch.rand(n, generator=generator) < 0.7 for n in (rows, columns)]
    return a, b, identities, kept


def masked(a, b, mask):
    return (a @ b.T).masked_fill(mask, -torch.inf)


def among(a, b, identity, kept):
    apart = torch.eye(len(a), dtype=torch.bool)
    same = identity[0].unsqueeze(1) == identity[0]
    out = ~(kept[0].unsqueeze(1) & kept[0])
    return {
        "self": ({}, apart),
        "identities": ({"row_identity": identity[0]}, apart | same),
        "kept": ({"row_kept": kept[0]}, apart | out),
        "views": ({"period": 4}, (torch.arange(11) - torch.arange(11).unsqueeze(1)) % 4 == 0),
    }


def between(a, b, identity, kept):
    same = identity[0].unsqueeze(1) == identity[1]
    out = ~(kept[0].unsqueeze(1) & kept[1])
    both = {"row_identity": identity[0], "column_identity": identity[1]}
    keeping = {"row_kept": kept[0], "column_kept": kept[1]}
    none = torch.zeros(len(a), len(b), dtype=torch.bool)
    return {"all": ({}, none), "identities": (both, same), "both": ({**both, **keeping}, same | out)}


def equal(value, expected, *leaves):
    torch.testing.assert_close(value, expected)
    finite = expected.isfinite()
    upstream = torch.randn(int(finite.sum()), dtype=value.dtype)
    gradients = torch.autograd.grad(value[finite], leaves, upstream, allow_unused=True)
    expected_gradients = torch.autograd.grad(expected[finite], leaves, upstream, allow_unused=True)
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.parametrize("case", ["self", "identities", "kept", "views"])
def test_rows_among_each_other(case):
    a, b, identity, kept = data()
    arguments, mask = among(a, b, identity, kept)[case]
    equal(similarity_logsumexp(a, **arguments), masked(a, a, mask).logsumexp(dim=1), a)


@pytest.mark.parametrize("case", ["all", "identities", "both"])
def test_rows_and_columns(case):
    a, b, identity, kept = data()
    arguments, mask = between(a, b, identity, kept)[case]
    equal(similarity_logsumexp(a, b, **arguments), masked(a, b, mask).logsumexp(dim=1), a, b)
    scores = masked(a, b, mask)
    by_row, by_column = two_way_logsumexp(a, b, **arguments)
    equal(torch.cat([by_row, by_column]), torch.cat([scores.logsumexp(dim=1), scores.logsumexp(dim=0)]), a, b)


def test_only_the_hardest_count():
    a, b, identity, _ = data()
    given = {"row_identity": identity[0], "column_identity": identity[1]}
    scores = masked(a, b, identity[0].unsqueeze(1) == identity[1])
    floor = kth_largest_similarity(a, b, 3, **given)
    torch.testing.assert_close(floor, scores.topk(3, dim=1).values[:, -1].detach())
    hardest = scores.topk(3, dim=1).values
    equal(similarity_logsumexp(a, b, **given, floor=floor), hardest.logsumexp(dim=1), a, b)
    assert (kth_largest_similarity(a, b, 10) == -torch.inf).all()
    apart = torch.eye(11, dtype=torch.bool)[:, :9]
    beside = kth_largest_similarity(a, b, 2, diagonal=False)
    torch.testing.assert_close(beside, masked(a, b, apart).topk(2, dim=1).values[:, -1].detach())
    equal(similarity_logsumexp(a, b, diagonal=False), masked(a, b, apart).logsumexp(dim=1), a, b)


def test_softplus():
    a, b, *_ = data()
    equal(similarity_softplus(30 * a, b), F.softplus(30 * a @ b.T, threshold=100).sum(dim=1), a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_of_hundreds_are_finite(dtype):
    a, b, *_ = data(dtype=dtype)
    value = similarity_logsumexp(1e3 * a, b)
    torch.testing.assert_close(value, (1e3 * a @ b.T).logsumexp(dim=1))
    assert torch.autograd.grad(value.sum(), a)[0].isfinite().all()


def test_a_row_without_pairs_is_minus_infinity_and_learns_nothing():
    a, b, *_ = data()
    kept = torch.arange(len(a)) > 0
    value = similarity_logsumexp(a, b, row_kept=kept)
    assert value[0] == -torch.inf and value[1:].isfinite().all()
    gradient = torch.autograd.grad(value[1:].sum(), a)[0]
    assert (gradient[0] == 0).all() and (gradient[1:] != 0).any()
    assert similarity_logsumexp(a[:1]).item() == -torch.inf


@pytest.mark.parametrize("both", [False, True])
def test_partners_are_picked_among_the_kept_ones_of_other_classes(both):
    a, _, (target, _), (kept, _) = data()
    b, queue = torch.randn_like(a).detach().requires_grad_(), torch.randn(3, 5, dtype=a.dtype)
    value = partner_cross_entropy(a, b, target=target, kept=kept, negatives=queue, both=both)

    def picked(rows, columns, further):
        scores = rows @ columns.T
        own = torch.eye(len(scores), dtype=torch.bool)
        out = ((target.unsqueeze(1) == target) & ~own) | ~kept.unsqueeze(1) | ~kept
        scores = scores.masked_fill(out & ~own, -torch.inf)
        return torch.cat([scores, rows @ further.T], dim=1).logsumexp(dim=1) - scores.diagonal()

    expected = picked(a, b, queue) + (picked(b, a, queue[:0]) if both else 0)
    equal(value, expected.masked_fill(~kept, 0.0), a, b)


def test_second_derivatives_are_refused_in_tiles():
    a, b, *_ = data()
    for function in (similarity_logsumexp, similarity_softplus):
        with pytest.raises(RuntimeError, match="create_graph=True came"):
            torch.autograd.grad(function(a, b).sum(), a, create_graph=True)


def test_what_does_not_fit_is_told():
    a, b, (identity, _), _ = data()
    with pytest.raises(ValueError, match="k"):
        kth_largest_similarity(a, b, 0)
    for columns in (b.float(), b[:, :3]):
        with pytest.raises(ValueError, match="came with columns of shape"):
            similarity_logsumexp(a, columns)
    with pytest.raises(ValueError, match="give float32 or float64"):
        similarity_softplus(a.half(), b.half())
    with pytest.raises(ValueError, match="identities"):
        similarity_logsumexp(a, b, row_identity=identity)


def test_torch_func_takes_the_whole_matrix():
    a, b, *_ = data()
    gradient = torch.func.grad(lambda x: similarity_logsumexp(x, b.detach()).sum())(a.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(similarity_logsumexp(a, b).sum(), a)[0])


def test_compiled_in_one_graph():
    a, b, *_ = data()
    compiled = torch.compile(lambda x, y: similarity_logsumexp(x, y), fullgraph=True, backend="aot_eager")
    equal(compiled(a, b), (a @ b.T).logsumexp(dim=1), a, b)
