"""Every loss, transport and head gives the right second derivative, or refuses it; none leaves a part of it out."""

from typing import get_args

import pytest
import torch

from lightning_losses import losses
from lightning_losses.kernels.chunked_head import chunked_head
from lightning_losses.kernels.cross_entropy.problem import Impl
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.linear_distillation import linear_distillation
from lightning_losses.kernels.rows.head_loss import ChunkedImpl
from lightning_losses.losses import loss_classes
from lightning_losses.losses.distillation.divergences.adaptive_alpha_divergence import alpha_divergence
from lightning_losses.transport import entropic_cost, kl_cost, l1_distances, row_column_normalization, sinkhorn
from lightning_losses.transport.pairwise import _L1Distances
from tests.losses.examples import build, tensors, trained
from tests.losses.test_every_loss import CONSTANT_PARTS

VARIANTS = {
    **{loss.identifier(): build(loss) for loss in loss_classes() if loss.identifier() not in CONSTANT_PARTS},
    "sinkd": losses.SinKD(scale=1.0),
    "sinkd_in_the_log_domain": losses.SinKD(scale=1.0, epsilon=0.005, n_iters=5),
    "attention_transfer_paper": losses.AttentionTransfer(mode="paper"),
    "mmce_root": losses.MMCE(squared=False),
    "cross_entropy_smoothed": losses.CrossEntropy(label_smoothing=0.1),
}


def outcome(function, *leaves):
    """A second derivative along a direction beside that of finite differences; None where it is refused."""
    leaves = [leaf.detach().double().requires_grad_() for leaf in leaves]
    generator = torch.Generator().manual_seed(5)
    along = [torch.randn(leaf.shape, dtype=torch.float64, generator=generator) for leaf in leaves]

    def slopes(step):
        moved = [
            (leaf + step * direction).detach().requires_grad_() for leaf, direction in zip(leaves, along, strict=True)
        ]
        return torch.autograd.grad(function(*moved), moved, materialize_grads=True)

    try:
        first = torch.autograd.grad(function(*leaves), leaves, create_graph=True, materialize_grads=True)
    except RuntimeError as error:
        assert "create_graph=True" in str(error) or "not implemented" in str(error), error
        return None
    total = sum((slope * direction).sum() for slope, direction in zip(first, along, strict=True))
    # A constant slope has no graph, and no second derivative.
    try:
        found = torch.autograd.grad(total, leaves, materialize_grads=True) if total.requires_grad else None
    except NotImplementedError as error:
        if "_cdist_backward" not in str(error) or tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13):
            raise
        pytest.skip("torch before 2.13 has no second derivative of cdist")
    step = 1e-6
    expected = [(ahead - behind) / (2 * step) for ahead, behind in zip(slopes(step), slopes(-step), strict=True)]
    return [torch.zeros_like(leaf) for leaf in leaves] if found is None else found, expected


def assert_right(pair, tolerance=1e-5):
    found, expected = pair
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("name", VARIANTS)
def test_of_a_loss(name):
    loss = VARIANTS[name]
    values = tensors(type(loss))
    names = list(trained(values))
    pair = outcome(
        lambda *leaves: loss(**{**values, **dict(zip(names, leaves, strict=True))}), *(values[key] for key in names)
    )
    assert_right(pair)


def test_weights_that_are_constants_stay_so():
    """Of a divergence whose weights have no gradient, the second derivative is that at these weights."""
    values = tensors(losses.AdaptiveKL)
    logits, teacher = values["logits"], values["teacher_logits"]
    rows = losses.AdaptiveKL(reduction="none")(logits, teacher)
    forward, reverse = (kind(reduction="none")(logits, teacher) for kind in (losses.ForwardKL, losses.ReverseKL))
    weight = (rows - reverse) / (forward - reverse)

    def fixed(logits):
        parts = (kind(reduction="none")(logits, teacher) for kind in (losses.ForwardKL, losses.ReverseKL))
        return sum(w * part for w, part in zip((weight, 1 - weight), parts, strict=True)).mean()

    found, _ = outcome(lambda z: losses.AdaptiveKL()(z, teacher), logits)
    torch.testing.assert_close(found[0], outcome(fixed, logits)[0][0])


def test_of_a_surrogate():
    values = tensors(losses.AdaptiveAlphaDivergence)
    log_s, log_t = values["logits"].log_softmax(-1), values["teacher_logits"].log_softmax(-1)
    low, high = (alpha_divergence(log_s, log_t, alpha, 5.0) for alpha in (-1.0, 1.0))
    weights = torch.where((low.value > high.value).unsqueeze(-1), low.weights, high.weights)
    loss = losses.AdaptiveAlphaDivergence()
    found, _ = outcome(lambda z: loss(z, values["teacher_logits"]), values["logits"])
    expected, _ = outcome(lambda z: -(weights * z.log_softmax(-1)).sum(dim=-1).mean(), values["logits"])
    torch.testing.assert_close(found[0], expected[0])


# ---- transport

COST = torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
WEIGHT = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(4, 5)


@pytest.mark.parametrize("bound", [1.0, None], ids=["scalings", "logarithms"])
def test_of_normalised_rows_and_columns(bound):
    def function(cost):
        return (
            WEIGHT * row_column_normalization(cost, epsilon=0.2, n_iters=4, cost_bound=bound).square()
        ).sum() + cost.square().sum()

    assert_right(outcome(function, COST))


def test_of_rows_and_columns_of_which_some_are_kept_apart():
    kept = torch.tensor([True, True, True, False, False])
    apart = kept != kept.unsqueeze(-1)

    def function(cost):
        square = cost @ cost.T
        plan = row_column_normalization(square.masked_fill(apart, torch.inf), epsilon=0.3, n_iters=3)
        return (plan * square).sum()

    assert_right(outcome(function, COST.T))


def of_plan(transport):
    return (WEIGHT * transport.plan.square()).sum()


@pytest.mark.parametrize("cost_of", [kl_cost, entropic_cost, of_plan])
@pytest.mark.parametrize("gradient", ["unrolled", "implicit", "envelope"])
def test_of_entropic_transport(gradient, cost_of):
    def function(cost, a, b):
        a, b = a.softmax(dim=-1), b.softmax(dim=-1)
        return cost_of(sinkhorn(cost, a, b, epsilon=0.3, n_iters=200, gradient=gradient))

    if gradient != "envelope":
        assert_right(outcome(function, COST, WEIGHT[:, 0], WEIGHT[0]))
    elif cost_of is not of_plan:  # for these two alone
        assert outcome(function, COST, WEIGHT[:, 0], WEIGHT[0]) is None


@pytest.mark.parametrize("distances", [l1_distances, _L1Distances.apply], ids=["of torch", "of a device"])
def test_of_distances(distances):
    assert_right(outcome(lambda x, y: (WEIGHT * distances(x, y).pow(3)).sum(), COST[:, :3], WEIGHT.T[:, 1:]))


# ---- heads


def head(reduction="mean"):
    generator = torch.Generator().manual_seed(2)
    hidden, weight, teacher_hidden, teacher_weight = (
        torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((6, 3), (7, 3), (6, 4), (7, 4))
    )
    return hidden, weight, teacher_hidden, teacher_weight, torch.tensor([0, 3, 6, 2, -100, 1])


def assert_right_or_refused(function, *leaves):
    try:
        pair = outcome(function, *leaves)
    except (ValueError, ImportError):  # an implementation that is not to be had here
        return "missing"
    if pair is None:
        return "refused"
    assert_right(pair)
    return "right"


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("impl", [impl for impl in get_args(Impl) if impl != "cce_torch_compile"])
def test_of_linear_cross_entropy(impl, reduction):
    hidden, weight, *_, target = head()
    rows = torch.linspace(0.5, 1.5, 6, dtype=torch.float64) if reduction == "none" else 1.0
    came = assert_right_or_refused(
        lambda h, w: (rows * linear_cross_entropy(h, w, target, reduction=reduction, impl=impl)).sum(), hidden, weight
    )
    assert came == "right" if impl == "reference" else came in ("right", "refused", "missing")


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("impl", get_args(ChunkedImpl))
@pytest.mark.parametrize("loss", [losses.KD(), losses.DKD(), losses.Focal()], ids=["kd", "dkd", "focal"])
def test_of_any_loss_of_a_head(loss, impl, reduction):
    hidden, weight, teacher_hidden, teacher_weight, target = head()
    rows = torch.linspace(0.5, 1.5, 6, dtype=torch.float64) if reduction == "none" else 1.0

    def function(h, w):
        options = {"reduction": reduction, "chunk": 2, "impl": impl}
        if isinstance(loss, losses.Focal):
            return (rows * chunked_head(loss, h, w, target, **options)).sum()
        value = linear_distillation(h, w, teacher_hidden, teacher_weight, target, objective=loss, **options)
        return (rows * value.loss).sum()

    assert assert_right_or_refused(function, hidden, weight) != "missing" or impl in ("triton", "avx512")


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (
            lambda hidden: linear_cross_entropy(hidden, torch.ones(7, 4), torch.arange(3), impl="chunked"),
            "linear_cross_entropy: impl='chunked' has a backward pass of its own, which the transforms of torch.func "
            "don't take; give impl='reference', or the loss itself its logits.",
        ),
        (
            lambda hidden: linear_cross_entropy(hidden, torch.ones(7, 4), torch.arange(3), impl="recompute"),
            "linear_cross_entropy: impl='recompute' has a backward pass of its own, which the transforms of torch.func "
            "don't take; give impl='reference', or the loss itself its logits.",
        ),
        (
            lambda hidden: kl_cost(sinkhorn(hidden, epsilon=0.5, gradient="envelope")),
            "sinkhorn: gradient='envelope' has a backward pass of its own, which the transforms of torch.func don't "
            "take; give gradient='unrolled'.",
        ),
    ],
    ids=["chunked", "recompute", "sinkhorn"],
)
def test_what_transforms_do_not_take_is_refused_in_one_sentence(function, sentence):
    with pytest.raises(ValueError) as raised:
        torch.func.grad(function)(torch.rand(3, 4))
    assert str(raised.value) == sentence
