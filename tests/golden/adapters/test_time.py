"""What a network learns from its own predictions at test time."""

from typing import Any

from torch import Tensor

from lightning_losses.losses import RMTSymmetricCrossEntropy, SoftLikelihoodRatio, SoftmaxEntropy
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def entropy(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        logits = leaf(given["logits"])
    value = SoftmaxEntropy()(logits)
    return {"per_sample": SoftmaxEntropy(reduction="none")(logits), "loss": value, **gradients(value, logits=logits)}


def likelihood_ratio(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        settings = {"clip": read.take("clip"), "epsilon": read.take("eps")}
    logits = leaf(given["logits"])
    value = SoftLikelihoodRatio(**settings)(logits)
    return {
        "per_sample": SoftLikelihoodRatio(**settings, reduction="none")(logits),
        **gradients(value, logits=logits),
    }


def symmetric_cross_entropy(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        alpha = read.take("alpha")
    student, teacher = leaf(given["student"]), given["teacher"]
    value = RMTSymmetricCrossEntropy(alpha)(student, teacher)
    return {
        "per_sample": RMTSymmetricCrossEntropy(alpha, reduction="none")(student, teacher),
        "loss": value,
        **gradients(value, student=student),
    }


ADAPTERS: dict[str, Adapter] = {
    "softmax_entropy": entropy,
    "soft_likelihood_ratio": likelihood_ratio,
    "rmt_symmetric_cross_entropy": symmetric_cross_entropy,
}
