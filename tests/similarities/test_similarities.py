"""Tiles of a few pairs give what the whole matrix gives, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_losses.similarities import (
    logistic,
    partner_cross_entropy,
    partner_logistic,
    powers,
    similarity_logsumexp,
    tiles,
)
from tests.graphs import assert_one_graph


@pytest.fixture(autouse=True, params=[4, -4, 512], ids=["tiles", "tiles of all columns", "one tile"])
def tile_width(request, monkeypatch):
    monkeypatch.setattr(tiles, "DENSE", 0)
    monkeypatch.setattr(tiles, "_width", lambda device: abs(request.param))
    monkeypatch.setattr(tiles, "onednn_float32", lambda: request.param > 0)


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


def test_rows_beside_their_own_columns():
    a, b, *_ = data()
    apart = torch.eye(11, dtype=torch.bool)[:, :9]
    equal(similarity_logsumexp(a, b, scale=0.5, diagonal=False), masked(0.5 * a, b, apart).logsumexp(dim=1), a, b)


def test_the_logistic_loss_of_all_pairs():
    a, b, *_ = data(columns=11)
    scale, bias = (torch.tensor(value, dtype=a.dtype, requires_grad=True) for value in (3.0, -1.0))
    signs = 2 * torch.eye(11, dtype=a.dtype) - 1
    expected = -F.logsigmoid(signs * (scale * a @ b.T + bias)).sum() / 11
    equal(partner_logistic(a, b, scale=scale, bias=bias), expected, a, b, scale, bias)


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
@pytest.mark.parametrize("hardest", [None, 3])
def test_partners_are_picked_among_the_kept_ones_of_other_classes(both, hardest):
    a, _, (target, _), (kept, _) = data()
    b, queue = torch.randn_like(a).detach().requires_grad_(), torch.randn(3, 5, dtype=a.dtype)
    scale = torch.tensor(2.0, dtype=a.dtype, requires_grad=True)
    options = {"target": target, "kept": kept, "negatives": queue, "hardest": hardest}
    value = partner_cross_entropy(a, b, scale=scale, both=both, **options)

    def picked(rows, columns, further, most):
        scores = scale * rows @ columns.T
        own = torch.eye(len(scores), dtype=torch.bool)
        out = (target.unsqueeze(1) == target) | ~kept.unsqueeze(1) | ~kept
        others = torch.cat([scores.masked_fill(out | own, -torch.inf), scale * rows @ further.T], dim=1)
        others = others.topk(most or others.shape[1], dim=1).values
        return torch.cat([scores.diagonal().unsqueeze(1), others], dim=1).logsumexp(dim=1) - scores.diagonal()

    expected = picked(a, b, queue, hardest) + (picked(b, a, queue[:0], None) if both else 0)
    equal(value, expected[kept].mean(), a, b, scale)


def test_without_a_kept_sample_nothing_is_picked():
    a, b, *_ = data(columns=11)
    value = partner_cross_entropy(a, b, kept=torch.zeros(11, dtype=torch.bool))
    assert (value, *(gradient.count_nonzero() for gradient in torch.autograd.grad(value, (a, b)))) == (0, 0, 0)


LOSSES = {
    "logsumexp": lambda a, b: similarity_logsumexp(a, b, diagonal=False).square().sum(),
    "among": lambda a, b: similarity_logsumexp(torch.cat([a, b]), period=11).square().sum(),
    "cross-entropy": lambda a, b: partner_cross_entropy(a, b, scale=2.0),
    "one direction": lambda a, b: partner_cross_entropy(a, b, hardest=4, both=False),
    "logistic": lambda a, b: partner_logistic(a, b, bias=-1.0),
}


def scaled_up(a, b, case):
    """What leaves the range of ordinary powers: nothing, some sums, one row's alone, or nearly all."""
    factors = torch.ones(len(a), 1, dtype=a.dtype)
    factors[2] = 1e4 if case == "one row" else 1.0
    scale = {"ordinary": 1.0, "cold": 100.0, "one row": 1.0, "huge": 1e4}[case]
    unit = [F.normalize(each.detach(), dim=-1) * scale**0.5 for each in (a, b)]
    return [each.requires_grad_() for each in (unit[0] * factors, unit[1])]


@pytest.mark.parametrize("case", ["ordinary", "cold", "one row", "huge"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_powers_without_a_shift_equal_those_over_the_largest(loss, case, dtype, monkeypatch):
    a, b = scaled_up(*data(columns=11, dtype=dtype)[:2], case)
    ways = []
    checks = {(powers, "ordinary"): powers.ordinary, (logistic, "known_finite"): logistic.known_finite}
    for (module, name), check in checks.items():
        monkeypatch.setattr(module, name, lambda *given, check=check: ways.append(check(*given)) or ways[-1])
    plain = loss(a, b)
    # Of cold scores some losses' sums leave the range, and others' don't.
    assert ways and (case == "cold" or all(ways) == (case == "ordinary"))
    for module in (powers, logistic):
        monkeypatch.setattr(module, "readable", lambda like: False)
    shifted = loss(a, b)
    torch.testing.assert_close(plain, shifted)
    # Scores of up to 10,000 are rounded by 1e-3, which probabilities then differ by.
    for one, other in zip(torch.autograd.grad(plain, (a, b)), torch.autograd.grad(shifted, (a, b)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4 if dtype == torch.float32 else 1e-7, atol=1e-6)


def test_of_blocks_only_those_beyond_the_range_are_shifted(monkeypatch):
    a, b = scaled_up(*data(columns=11)[:2], "one row")
    ways, check = [], powers.ordinary
    monkeypatch.setattr(powers, "ordinary", lambda *given: ways.append(check(*given)) or ways[-1])
    partner_cross_entropy(a, b, both=False)
    assert ways.count(False) == 1 and len(ways) == (6 if tiles._width(a.device) == 4 else 1)


@pytest.mark.parametrize("apart", [False, True])
def test_rows_themselves_as_columns_may_have_masks_of_their_own(apart):
    a, _, _, (kept, _) = data()
    masks = {"column_kept": ~kept} if apart else {}
    value = similarity_logsumexp(a, a, row_kept=kept, diagonal=False, **masks)
    out = torch.eye(11, dtype=torch.bool) | ~kept.unsqueeze(1) | (kept if masks else torch.zeros_like(kept))
    equal(value, masked(a, a, out).logsumexp(dim=1), a)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_second_derivatives_are_there_for_few_pairs_and_refused_for_many(loss, monkeypatch):
    a, b, *_ = data(columns=11)
    with pytest.raises(RuntimeError, match="create_graph=True came"):
        torch.autograd.grad(loss(a, b), a, create_graph=True)
    monkeypatch.setattr(tiles, "DENSE", 1000)
    assert torch.autograd.gradgradcheck(loss, (a[:4], b[:4]))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_gradient_with_a_graph_is_that_without_one_where_columns_are_made_of_rows(loss, monkeypatch):
    monkeypatch.setattr(tiles, "DENSE", 1000)
    a, *_ = data()
    for columns in (a, 2 * a + a.detach().flip(0)):
        value = loss(a, columns)
        gradient = torch.autograd.grad(value, a, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(value, a, create_graph=True), gradient)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_graph_that_is_kept_gives_its_gradients_again_times_what_comes_from_above(loss):
    a, b, *_ = data(columns=11)
    value = loss(a, b)
    once = torch.autograd.grad(value, (a, b), retain_graph=True)
    twice = torch.autograd.grad(2 * value, (a, b), retain_graph=True)
    torch.testing.assert_close(twice, tuple(2 * gradient for gradient in once))
    torch.testing.assert_close(torch.autograd.grad(value, (a, b)), once)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_values_and_gradients_alone_are_those_of_both(loss):
    a, b, *_ = data(columns=11)
    value = loss(a, b)
    with torch.no_grad():
        assert not loss(a, b).requires_grad
        torch.testing.assert_close(loss(a, b), value)
    for first, second in ((a, b.detach()), (a.detach(), b)):
        leaf = first if first.requires_grad else second
        torch.testing.assert_close(
            torch.autograd.grad(loss(first, second), leaf), torch.autograd.grad(loss(a, b), leaf)
        )


def test_what_does_not_fit_is_told():
    a, b, (identity, _), _ = data()
    for columns in (b.float(), b[:, :3]):
        with pytest.raises(ValueError, match="came with columns of shape"):
            similarity_logsumexp(a, columns)
    with pytest.raises(ValueError, match="give float32 or float64"):
        partner_logistic(a.half(), b.half())
    for loss in (partner_logistic, partner_cross_entropy):
        with pytest.raises(ValueError, match="11 rows came with 9 columns"):
            loss(a, b)
    with pytest.raises(ValueError, match="hardest"):
        partner_cross_entropy(b, b, hardest=0)
    with pytest.raises(ValueError, match="came with columns of shape"):
        partner_cross_entropy(b, b, negatives=b[:, :3])
    with pytest.raises(ValueError, match="identities"):
        similarity_logsumexp(a, b, row_identity=identity)
    with pytest.raises(ValueError, match=r"row_identity of shape \[5\] .* came with 11 rows"):
        similarity_logsumexp(a, row_identity=identity[:5])
    with pytest.raises(ValueError, match=r"row_kept of shape \[9\] and dtype torch.int64 .* give a bool for each"):
        partner_cross_entropy(b, b, kept=torch.ones(9, dtype=torch.int64))
    with pytest.raises(ValueError, match="period=0 came; give a whole number of at least 1"):
        similarity_logsumexp(a, period=0)
    with pytest.raises(ValueError, match="came without columns"):
        similarity_logsumexp(a, column_kept=torch.ones(11, dtype=torch.bool))
    with pytest.raises(ValueError, match="a scale that learns came"):
        similarity_logsumexp(a, scale=torch.ones((), requires_grad=True))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_without_vectors_the_value_is_zero(loss):
    a, b = (torch.zeros(0, 5, requires_grad=True) for _ in "ab")
    loss(a, b).backward()
    assert loss(a, b) == 0 and a.grad.shape == (0, 5)


def test_without_columns_a_logsumexp_is_minus_infinity():
    a, *_ = data()
    assert torch.equal(similarity_logsumexp(a, a[:0]), torch.full((11,), -torch.inf, dtype=a.dtype))
    value = partner_cross_entropy(a, a.detach(), negatives=a[:0])
    assert torch.equal(value, partner_cross_entropy(a, a.detach()))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_torch_func_takes_the_whole_matrix(loss):
    a, b, *_ = data(columns=11)
    gradient = torch.func.grad(loss)(a.detach(), b.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(loss(a, b), a)[0])


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_of_fake_tensors_nothing_is_read(loss):
    with FakeTensorMode():
        a, b = (torch.zeros(11, 5, requires_grad=True) for _ in "ab")
        loss(a, b).backward()
    assert a.grad.shape == (11, 5)


@pytest.mark.parametrize("name", ["among", "cross-entropy", "logistic"])
@pytest.mark.parametrize("tile_width", [8], indirect=True)
@pytest.mark.one_graph
def test_compiled_in_one_graph(name):
    # By the routine for products in single precision, which depends on the processor.
    a, b, *_ = data(columns=11, dtype=torch.float32)
    torch._dynamo.reset()
    equal(torch.compile(LOSSES[name], fullgraph=True, backend="aot_eager")(a, b), LOSSES[name](a, b), a, b)


@pytest.mark.parametrize("tile_width", [512], indirect=True)
@pytest.mark.one_graph
def test_compiled_in_one_graph_for_batches_of_all_sizes(monkeypatch):
    monkeypatch.setattr(tiles, "DENSE", 1000)

    def loss(a, b):
        views = similarity_logsumexp(torch.cat([a, b]), period=len(a))
        return views.sum() + similarity_logsumexp(a, b, diagonal=False).sum()

    assert_one_graph(loss, [data(size, size)[:2] for size in (4, 5, 7)])


@pytest.mark.parametrize("both", [False, True])
def test_a_row_that_is_not_kept_meets_no_further_negatives(both):
    rows = torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    kept, negatives = torch.tensor([True, False]), torch.tensor([[1.0, 0.0]])
    # Its score with the negative would overflow.
    value = partner_cross_entropy(rows, rows.detach(), scale=100.0, kept=kept, negatives=negatives, both=both)
    assert value < 1e-30
    assert torch.equal(torch.autograd.grad(value, rows)[0], torch.zeros(2, 2))
