"""The fused cross-entropy on a GPU: against float64, without a wait of the host, in a compiled and a captured step."""

import pytest
import torch

from lightning_losses.kernels.choice import choose_implementation
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from tests.kernels.cross_entropy.triton_cases import OPTIONS
from tests.kernels.on_cuda import (  # noqa: F401 - the fixture is used by its name
    assert_captured_equals_eager,
    assert_the_host_never_waits,
    full_precision,
)

pytestmark = [pytest.mark.kernels, pytest.mark.cuda]

# A few roundings of each dtype's bits; bfloat16's logits and gradients are rounded to 8 of them.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def operands(dtype, tokens=700, width=256, vocabulary=3000, scale=0.1):
    generator = torch.Generator().manual_seed(7)
    hidden, weight, bias = (
        (scale * torch.randn(*shape, generator=generator)).to("cuda", dtype)
        for shape in ((tokens, width), (vocabulary, width), (vocabulary,))
    )
    target = torch.randint(vocabulary, (tokens,), generator=generator).cuda()
    target[::7] = -100
    return hidden, weight, target, bias


def without_a_third(hidden, weight, target, bias):
    """The operands with every third class masked by -inf, and no target among them."""
    bias[::3] = -torch.inf
    return hidden, weight, torch.where((target >= 0) & (target % 3 == 0), target + 1, target), bias


def outcomes(call, kind, upstream, **options):
    hidden, weight, target, bias = call
    leaves = [tensor.to(kind).requires_grad_() for tensor in (hidden, weight, bias)]
    value = linear_cross_entropy(leaves[0], leaves[1], target, leaves[2], **options)
    parts = [value] if isinstance(value, torch.Tensor) else [part for part in value if part is not None]
    total = sum(((number + 1) * upstream.to(part.dtype) * part).sum() for number, part in enumerate(parts))
    return [*(part.detach() for part in parts), *torch.autograd.grad(total, leaves)]


def settled(options, dtype=torch.float64):
    options = dict(options)
    if options.pop("class_weight", False):
        options["class_weight"] = torch.linspace(0.5, 2.0, 3000, dtype=dtype, device="cuda")
    return options


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("impl", ["auto", "chunked", "recompute"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_float64(name, dtype, impl):
    options = settled(OPTIONS[name])
    rows = options.get("reduction") == "none"
    if impl == "chunked" and (rows or "return_entropy" in options):
        pytest.skip("its gradients are made in forward")
    if options.get("accum_dtype") and (impl == "recompute" or dtype == torch.float64):
        pytest.skip("nothing is gathered")
    call = operands(dtype)
    if options.pop("left_out", False):
        call = without_a_third(*call)
    upstream = torch.linspace(-1, 2, 700, device="cuda") if rows else torch.tensor(-1.5, device="cuda")
    exact = outcomes(call, torch.float64, upstream, impl="reference", **{**options, "accum_dtype": None})
    ours = outcomes(call, dtype, upstream, impl=impl, chunk=256 if impl == "auto" else None, **options)
    for one, other in zip(ours, exact, strict=True):
        assert (one.double() - other).norm() <= TOLERANCE[dtype] * other.norm().clamp(min=1e-3), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_auto_takes_the_kernel(dtype):
    hidden, weight, _, _ = operands(dtype)
    for per_row in (False, True):
        assert choose_implementation(hidden, weight, per_row=per_row).impl == "triton"


@pytest.mark.parametrize("impl", ["auto", "chunked", "recompute"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("class_weight", [False, True])
def test_the_host_never_waits(impl, reduction, class_weight):
    hidden, weight, target, bias = operands(torch.bfloat16)
    options = settled({"class_weight": class_weight}, torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]

    def step():
        loss = linear_cross_entropy(leaves[0], leaves[1], target, leaves[2], impl=impl, reduction=reduction, **options)
        loss.mean().backward()

    assert_the_host_never_waits(step)
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_dropping_ignored_tokens_changes_nothing():
    call = operands(torch.float64)
    upstream = torch.tensor(2.0, device="cuda")
    kept, dropped = (outcomes(call, torch.float64, upstream, drop_ignored=drop) for drop in (False, True))
    for one, other in zip(kept, dropped, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_captured_step_gives_what_an_eager_one_gives(reduction):
    hidden, weight, target, bias = operands(torch.bfloat16)
    leaves = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]

    def step():
        loss = linear_cross_entropy(leaves[0], leaves[1], target, leaves[2], reduction=reduction).mean()
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    assert_captured_equals_eager(step, hidden, target)


@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_the_upstream_gradient_multiplies(factor):
    call = operands(torch.float32)
    once, other = (outcomes(call, torch.float32, torch.tensor(value, device="cuda"))[1:] for value in (1.0, factor))
    for one, two in zip(once, other, strict=True):
        torch.testing.assert_close(two, factor * one)
