"""Losses for classes and groups of unlike sizes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_losses.losses import (
    LDAM,
    AggregateLoss,
    AnyLoss,
    BalancedSoftmax,
    ClassBalanced,
    DROInstanceReweighting,
    GroupDRO,
    LogitAdjustment,
)
from lightning_losses.losses.base import Loss
from lightning_losses.losses.imbalance.ensloss import random_slopes
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


def anyloss(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        amplification, beta = read.take("L"), read.take("beta_squared") ** 0.5
        read.take("model")
    theta, outputs = leaf(given["theta"]), dict[str, Tensor]()
    score = given["X"] @ theta
    logits = torch.stack([torch.zeros_like(score), score], dim=1)
    metrics = {"fbeta": "f_beta", "accuracy": "accuracy", "gmean": "geometric_mean"}
    for name, metric in {**metrics, "balanced_accuracy": "balanced_accuracy"}.items():
        value = AnyLoss(metric, beta, amplification)(logits, given["y"])  # type: ignore[arg-type]
        outputs[f"loss_{name}"] = value
        outputs[f"grad_theta_{name}"] = gradients(value, theta=theta)["grad_theta"]
    return {**outputs, "amplified": torch.sigmoid(amplification * (score.sigmoid() - 0.5))}


def ensloss(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        box_cox = read.take("box_cox_lambda")
        read.choice("reduction", REDUCTIONS)
    scores = leaf(given["scores"])
    margins = (2 * given["y"] - 1) * scores
    value = (random_slopes(margins.detach(), given["normal_draws"], box_cox) * margins).mean()
    return {"surrogate_value": value, **gradients(value, scores=scores)}


def aggregate_loss(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        rho = read.take("rho")
        read.choice("layout", {"[bags, bag size]": True})
    predictions = leaf(given["predictions"])
    bags, size = predictions.shape
    spans = torch.arange(bags).repeat_interleave(size)
    response = given["bag_mean_response"].repeat_interleave(size)
    value, bag, instance = (AggregateLoss(r)(predictions.flatten(), response, spans) for r in (rho, 0.0, 1.0))
    return {
        "interpolated_loss": value,
        "grad_interpolated": gradients(value, predictions=predictions)["grad_predictions"],
        "bag_loss": bag,
        "instance_loss": instance,
        "within_bag_variance_mean": instance - bag,
    }


def dro_instance_reweighting(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        r = read.take("r")
    losses = leaf(given["losses"])
    # The logits of which these are the cross-entropies with class 0.
    logits = torch.stack([torch.zeros_like(losses), torch.expm1(losses).log()], dim=1)
    value = DROInstanceReweighting(r)(logits, torch.zeros(len(losses), dtype=torch.int64))
    gradient = gradients(value, losses=losses)["grad_losses"]
    return {"objective": value, "grad_losses": gradient, "weights": gradient}


def group_dro(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        loss = GroupDRO(read.take("groups"), read.take("eta")).double()
        assert read.take("generalisation_adjustment", 0.0) == 0
    if given["logits"].ndim == 2:
        logits = leaf(given["logits"])
        value = loss(logits, given["target"], given["group"])
        return {"loss": value, "q": loss.log_weights.exp(), **gradients(value, logits=logits)}
    outputs: dict[str, list[Tensor]] = {name: [] for name in ("loss", "q", "grad_logits", "group_loss")}
    for step, (scores, target) in enumerate(zip(given["logits"], given["target"], strict=True)):
        logits = leaf(scores)
        value = loss(logits, target, given["group"], step=step)
        outputs["loss"].append(value.detach())
        outputs["q"].append(loss.log_weights.exp().clone())
        outputs["grad_logits"].append(gradients(value, logits=logits)["grad_logits"])
        rows = torch.nn.functional.cross_entropy(scores, target, reduction="none")
        outputs["group_loss"].append(torch.stack([rows[given["group"] == g].mean() for g in range(loss.num_groups)]))
    return {name: torch.stack(values) for name, values in outputs.items()}


ADAPTERS: dict[str, Adapter] = {
    "aggregate_loss": aggregate_loss,
    "anyloss": anyloss,
    "dro_instance_reweighting": dro_instance_reweighting,
    "ensloss": ensloss,
    "group_dro": group_dro,
    "balanced_softmax": of_counts(BalancedSoftmax),
    "class_balanced": class_balanced,
    "ldam": ldam,
    "logit_adjustment": of_counts(LogitAdjustment, "tau"),
}
