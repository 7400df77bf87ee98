"""Functions of rows that a caller gives: the gradient of all they learn at every size, or one sentence."""

import pytest
import torch

from lightning_losses import chunked_head, debug, linear_cross_entropy
from lightning_losses.kernels.cross_entropy import reference

pytestmark = pytest.mark.kernels

LARGE = pytest.mark.parametrize("large", [False, True], ids=["small", "large"])


def call(vocabulary=23):
    generator = torch.Generator().manual_seed(4)
    hidden, weight = (torch.randn(rows, 5, generator=generator).requires_grad_() for rows in (13, vocabulary))
    target = torch.randint(vocabulary, (13,), generator=generator)
    target[::4] = -100
    return hidden, weight, target


@pytest.fixture
def size(large, monkeypatch):
    """The size below which "auto" holds the logits."""
    if large:
        monkeypatch.setattr(reference, "SMALL", 0)


@LARGE
@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("impl", ["auto", "chunked", "recompute", "reference"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_a_row_function_learns_has_its_gradient_at_every_size(impl, reduction, large):
    hidden, weight, target = call()
    slope = torch.tensor(2.0, requires_grad=True)
    learned = linear_cross_entropy(
        hidden, weight, target, row_function=lambda c: slope * c, impl=impl, reduction=reduction
    )
    plain = linear_cross_entropy(hidden, weight, target, impl="reference", reduction=reduction)
    leaves = (hidden, weight)
    torch.testing.assert_close(torch.autograd.grad(learned.sum(), slope, retain_graph=True)[0], plain.sum())
    torch.testing.assert_close(torch.autograd.grad(learned.sum(), leaves), torch.autograd.grad(2 * plain.sum(), leaves))


# What goes on after the call is traced with a tensor that isn't a leaf, of whose gradient torch asks.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_compiler_leaves_a_row_function_that_learns_out_of_its_graph(reduction):
    hidden, weight, target = call()
    slope = torch.tensor(2.0, requires_grad=True)

    def scaled(cross_entropies):
        return slope * cross_entropies

    def step(hidden):
        options = {"row_function": scaled, "reduction": reduction, "impl": "chunked"}
        return linear_cross_entropy(hidden, weight, target, **options).sum()

    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(step, backend="aot_eager", fullgraph=True)(hidden)
    torch.compile(step, backend="aot_eager")(hidden).backward()
    torch.testing.assert_close(slope.grad, linear_cross_entropy(hidden, weight, target, reduction=reduction).sum())


@LARGE
@pytest.mark.usefixtures("size")
@pytest.mark.parametrize(
    ("function", "told"),
    [
        (torch.ones_like, "whose values have no gradient"),
        (torch.detach, "whose values have no gradient"),
        (torch.mean, "which does not give one value for each row"),
        (lambda c: 1.0, "which does not give one value for each row"),
        (lambda c: c / c.sum(), "other values together than alone"),
        (lambda c: c - c.mean(), "other values together than alone"),
        (lambda c: c.sort().values, "other values together than alone"),
        (lambda c: c * torch.linspace(0, 1, 13), "which fails on two rows"),
    ],
)
def test_a_function_that_is_none_of_each_row_is_refused(function, told, large):
    with pytest.raises(ValueError, match=f"^linear_cross_entropy: row_function came, .*{told}"):
        linear_cross_entropy(*call(), row_function=function)


def test_a_value_that_nobody_differentiates_needs_no_gradient():
    hidden, weight, target = call()
    with torch.no_grad():
        value = linear_cross_entropy(hidden, weight, target, row_function=torch.detach)
    frozen = linear_cross_entropy(hidden.detach(), weight.detach(), target, row_function=torch.detach)
    assert value == frozen == linear_cross_entropy(hidden, weight, target)


@pytest.mark.parametrize("impl", ["auto", "chunked", "autograd", "reference"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_loss_that_learns_is_refused_by_chunks(impl, reduction):
    slope = torch.tensor(2.0, requires_grad=True)

    def scaled(logits, target, reduction):
        return slope * torch.nn.functional.cross_entropy(logits, target, reduction=reduction)

    with pytest.raises(ValueError, match="^scaled: it has tensors to learn, whose gradients chunks would not give"):
        chunked_head(scaled, *call(), impl=impl, reduction=reduction)
    with torch.no_grad():
        assert chunked_head(scaled, *call(), impl=impl, reduction=reduction).isfinite().all()


def test_a_function_without_a_value_for_each_row_is_refused():
    def summed(logits, reduction):
        return logits.sum()

    with pytest.raises(ValueError, match=r"^summed: values of two rows \(of shape \[\]\) came"):
        chunked_head(summed, *call())


def test_debug_changes_nothing_for_a_function_of_each_row():
    with debug():
        assert linear_cross_entropy(*call(), row_function=torch.square).isfinite()
