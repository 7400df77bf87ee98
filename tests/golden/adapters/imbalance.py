"""Losses for classes and groups of unlike sizes."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_losses.losses import LDAM, BalancedSoftmax, ClassBalanced, LogitAdjustment
from lightning_losses.losses.base import Loss
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]
REDUCTIONS = {
    "mean": "mean",
    "weighted mean (divides by the sum of the weights of the batch)": "mean",
}


def valued(loss: Loss, given: Tensors) -> Tensors:
    logits = leaf(given["logits"])
    value = loss(logits, given["target"])
    return {"loss": value, **gradients(value, logits=logits)}


def class_balanced(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        beta = read.take("beta")
        read.choice("normalise", {"mean 1 (sum C)": True})
    weights = ClassBalanced(given["cls_counts"], beta).class_weights(len(given["cls_counts"]))
    assert weights is not None
    return {"weights": weights}


def ldam(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        options = {"max_margin": read.take("max_m"), "scale": read.take("s"), "beta": read.take("beta", 0.0)}
        scale = read.choice("pre_scale", {"logits are divided by 4 before the loss": 0.25}, 1.0)
        reduction = read.choice("reduction", REDUCTIONS)
    logits = leaf(given["logits"])
    value = LDAM(given["cls_counts"], **options, reduction=reduction)(scale * logits, given["target"])
    return {"loss": value, **gradients(value, logits=logits)}


def of_counts(kind: Callable[..., Loss], *options: str) -> Adapter:
    def adapter(given: Tensors, params: dict[str, Any]) -> Tensors:
        with Params(params) as read:
            settings = {name: read.take(name) for name in options}
            reduction = read.choice("reduction", REDUCTIONS)
        return valued(kind(given["cls_counts"], **settings, reduction=reduction), given)

    return adapter


ADAPTERS: dict[str, Adapter] = {
    "balanced_softmax": of_counts(BalancedSoftmax),
    "class_balanced": class_balanced,
    "ldam": ldam,
    "logit_adjustment": of_counts(LogitAdjustment, "tau"),
}
