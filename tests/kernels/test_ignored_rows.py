"""An ignored row, whatever it holds, adds nothing to any head's value and gradients."""

import pytest
import torch

from lightning_losses import (
    EMO,
    KD,
    NKD,
    ArcFace,
    CrossEntropy,
    NoiseFiT,
    NormalizedSoftmax,
    SkewKL,
    TeacherLogits,
    TopKLogits,
    chunked_head,
    linear_cross_entropy,
    linear_distillation,
    linear_margin_loss,
    linear_spherical_z_loss,
    linear_stablemax_cross_entropy,
    vocab_parallel_cross_entropy,
)
from lightning_losses.kernels.linear_emo import linear_emo
from lightning_losses.kernels.linear_noisefit import linear_noisefit
from lightning_losses.kernels.token_record import token_record

pytestmark = pytest.mark.kernels

TARGET = torch.tensor([0, 1, -100, 3, -100, 5])


def topk(logits):
    classes = torch.arange(3).expand(len(logits), 3)
    return TopKLogits(logits[:, :3], classes, logits[:, 4])


def distilled(objective, logits=None, **options):
    def door(hidden, other, weight):
        given = (other, 2 * weight) if logits is None else (logits(other @ weight.detach().t()), None)
        return linear_distillation(hidden, weight, *given, TARGET, objective=objective, hard_weight=0.5, **options).loss

    return door


def margin(loss, centers, options):
    def door(hidden, _, weight):
        vectors = torch.cat([weight] * centers)
        return linear_margin_loss(loss, hidden, vectors, TARGET, sub_centers=centers, **options)

    return door


def noisefit(hidden, other, weight):
    return linear_noisefit(NoiseFiT(), hidden, other, 2 * other, weight, TARGET, softcap=3.0, chunk=4)


KEPT = {"drop_ignored": False}
DOORS = {
    **{
        f"cross-entropy {impl} {options}": lambda hidden, _, weight, impl=impl, options=options: linear_cross_entropy(
            hidden, weight, TARGET, impl=impl, **options
        )
        for impl in ("reference", "chunked", "recompute")
        for options in ({}, {**KEPT, "softcap": 2.0, "label_smoothing": 0.1, "z_loss": 0.1})
    },
    **{
        f"{type(objective).__name__} {reduction} {options}": distilled(objective, reduction=reduction, **options)
        for objective in (KD(), NKD(), SkewKL())
        for reduction in ("mean", "none")
        for options in ({}, KEPT, {**KEPT, "impl": "autograd"})
    },
    "all the teacher's logits": distilled(KD(), TeacherLogits, **KEPT),
    "some of the teacher's logits": distilled(KD(), topk, **KEPT),
    **{
        f"{type(loss).__name__} of {centers} {options}": margin(loss, centers, options)
        for loss in (ArcFace(), NormalizedSoftmax(0.5))
        for centers in (1, 2)
        for options in ({}, KEPT, {"impl": "autograd"}, {"reduction": "none"})
    },
    "emo": lambda hidden, _, weight: linear_emo(EMO(), hidden, weight, TARGET, **KEPT),
    "chunked head": lambda hidden, _, weight: chunked_head(
        CrossEntropy(), hidden, weight, TARGET, impl="autograd", **KEPT
    ),
    "stablemax": lambda hidden, _, weight: linear_stablemax_cross_entropy(hidden, weight, TARGET),
    "spherical": lambda hidden, _, weight: linear_spherical_z_loss(hidden, weight, TARGET),
    "noisefit": noisefit,
    "record": lambda hidden, _, weight: token_record(hidden, weight, TARGET, entropies=True).entropies,
    "vocab-parallel": lambda hidden, _, weight: vocab_parallel_cross_entropy(hidden, weight, TARGET).loss,
}


@pytest.mark.parametrize("held", [torch.nan, torch.inf, -torch.inf, 1e30], ids=str)
@pytest.mark.parametrize("door", DOORS)
def test_it_adds_nothing(door, held):
    generator = torch.Generator().manual_seed(2)
    hidden, other, weight = (torch.randn(rows, 4, generator=generator) for rows in (6, 6, 9))
    ignored = (TARGET == -100).unsqueeze(1)
    found = []
    for number in (0.5, held):
        given = [each.masked_fill(ignored, number).requires_grad_() for each in (hidden, other)]
        leaves = [*given, weight.clone().requires_grad_()]
        value = DOORS[door](*leaves).sum()
        found.append([value, *torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)])
        assert (found[-1][1][ignored.squeeze(1)] == 0).all()
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("held", [torch.nan, torch.inf], ids=str)
def test_other_projects_get_none_either(held, monkeypatch):
    def theirs(hidden, head, target, **options):
        kept = target != -100
        assert hidden.isfinite().all() and (hidden[~kept] == 0).all()
        return torch.nn.functional.cross_entropy(hidden @ head.t(), target, reduction="sum")

    monkeypatch.setattr("torch.nn.functional.linear_cross_entropy", theirs, raising=False)
    monkeypatch.setattr("lightning_losses.kernels.cross_entropy.peers.has_torch_operation", lambda: True)
    monkeypatch.setattr("torch.nn.LinearCrossEntropyOptions", dict, raising=False)
    hidden = torch.randn(6, 4).masked_fill((TARGET == -100).unsqueeze(1), held).requires_grad_()
    weight = torch.randn(9, 4).requires_grad_()
    gradients = torch.autograd.grad(
        linear_cross_entropy(hidden, weight, TARGET, impl="torch", **KEPT), (hidden, weight)
    )
    assert all(gradient.isfinite().all() for gradient in gradients)
