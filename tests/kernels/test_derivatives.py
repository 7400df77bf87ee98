"""Derivatives that a head hasn't: the error names the function that was called, and its remedy works."""

import pytest
import torch

from lightning_losses import (
    GCE,
    KD,
    ArcFace,
    StableMaxCrossEntropy,
    chunked_head,
    linear_cross_entropy,
    linear_distillation,
    linear_margin_loss,
    linear_stablemax_cross_entropy,
    vocab_parallel_cross_entropy,
)

pytestmark = pytest.mark.kernels

WEIGHT = torch.randn(9, 4, generator=torch.Generator().manual_seed(5))
HIDDEN = torch.randn(6, 4, generator=torch.Generator().manual_seed(6))
TARGET = torch.arange(6)
LOGITS = "give the loss itself its logits"


def taught(hidden, **options):
    return linear_distillation(hidden, WEIGHT, 2 * HIDDEN, WEIGHT, objective=KD(), **options).loss


def stablemax(hidden, **options):
    return linear_stablemax_cross_entropy(hidden, WEIGHT, TARGET, **options)


def margin(hidden, **options):
    return linear_margin_loss(ArcFace(), hidden, WEIGHT, TARGET, **options)


DOORS = {
    **{
        f"{door.__name__} {impl} {reduction}": (door, {"impl": impl, "reduction": reduction}, named, LOGITS)
        for door, named in (
            (taught, "linear_distillation: KD"),
            (stablemax, "chunked_head: Stable"),
            (margin, "chunked"),
        )
        for impl in ("auto", "chunked", "autograd", "reference")
        for reduction in ("mean", "none")
    },
    "vocab-parallel": (
        lambda hidden: vocab_parallel_cross_entropy(hidden, WEIGHT, TARGET).loss,
        {},
        "vocab_parallel_cross_entropy",
        "give the whole head to linear_cross_entropy with impl='reference'",
    ),
}


@pytest.mark.parametrize("name", DOORS)
def test_they_are_refused_by_name(name):
    door, options, named, remedy = DOORS[name]
    with pytest.raises(ValueError, match=f"^{named}.* the transforms of torch.func don't take; {remedy}"):
        torch.func.grad(lambda hidden: door(hidden, **options).sum())(HIDDEN)
    hidden = HIDDEN.clone().requires_grad_()
    with pytest.raises(RuntimeError, match=f"^{named}.* came with create_graph=True, .*; for higher ones {remedy}"):
        torch.autograd.grad(door(hidden, **options).sum(), hidden, create_graph=True)


@pytest.mark.parametrize(
    "remedy",
    [
        lambda hidden: KD()(hidden @ WEIGHT.t(), 2 * HIDDEN @ WEIGHT.t()),
        lambda hidden: StableMaxCrossEntropy()(hidden @ WEIGHT.t(), TARGET),
        lambda hidden: linear_cross_entropy(hidden, WEIGHT, TARGET, impl="reference"),
        lambda hidden: chunked_head(GCE(), hidden, WEIGHT, TARGET, impl="reference"),
    ],
)
def test_the_remedies_have_them(remedy):
    hidden = HIDDEN.clone().requires_grad_()
    (slope,) = torch.autograd.grad(remedy(hidden), hidden, create_graph=True)
    torch.testing.assert_close(torch.func.grad(remedy)(HIDDEN), slope)
    assert torch.autograd.grad(slope.square().sum(), hidden)[0].isfinite().all()


@pytest.mark.parametrize("name", DOORS)
def test_a_loss_can_be_changed_in_place(name):
    door, options, *_ = DOORS[name]
    hidden = HIDDEN.clone().requires_grad_()
    loss = door(hidden, **options).sum()
    (plain,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    loss = door(hidden, **options)
    loss *= 2
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), hidden)[0], 2 * plain)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    "head",
    [
        lambda hidden, **options: linear_cross_entropy(hidden, WEIGHT, TARGET, impl="chunked", **options),
        lambda hidden, **options: linear_cross_entropy(hidden, WEIGHT, TARGET, impl="recompute", **options),
        taught,
        stablemax,
    ],
)
def test_a_backward_pass_within_autocast_multiplies_as_the_forward_pass_did(head, reduction):
    outside, inside = HIDDEN.clone().requires_grad_(), HIDDEN.clone().requires_grad_()
    head(outside, reduction=reduction).sum().backward()
    loss = head(inside, reduction=reduction).sum()
    with torch.autocast("cpu", torch.bfloat16):
        loss.backward()
    assert torch.equal(inside.grad, outside.grad)
