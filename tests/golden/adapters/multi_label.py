"""Adapters of the losses for many labels, and of those of other libraries that configurations wrap."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import OmegaConf
from torch import Tensor

from lightning_losses.losses import (
    Asymmetric,
    BiasLoss,
    CrossEntropy,
    Focal,
    Hill,
    HLGauss,
    MarginLogPenalty,
    MultiFocalModifier,
    MultiGrainedFocal,
    RDrop,
    TopTwoSoftLabels,
    TwoHot,
    ZLoss,
)
from lightning_losses.losses.base import Loss
from lightning_losses.losses.multi_label.multi_grained_focal import rarity
from tests.golden.adapter import Adapter, Params, gradients, leaf

OBJECTIVES = Path(__file__).parents[3] / "conf" / "objective"

_MEANS = {
    "mean": "mean",
    "sum": "sum",
    "sum over N*C": "sum",
    "mean over N*C": "mean",
    "sum over classes, mean over N": "mean",
    "mean over batch of class sums": "mean",
    "mean over anchors with non-zero loss": "mean",
}


def wrapped(name: str, one_hot: bool = False, **options: Any) -> Any:
    """The loss of a configuration, with these options of the other library's."""
    config = OmegaConf.load(OBJECTIVES / f"{name}.yaml").terms[name].loss
    config = OmegaConf.merge(config, {"loss": options, "one_hot": one_hot})
    return hydra.utils.instantiate(config)


def of_logits(make: Callable[[Params, dict[str, Tensor]], Callable[[Tensor, Tensor], Tensor]]) -> Adapter:
    """A case of logits [N, C], and of class indices or labels."""

    def adapter(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
        with Params(params) as given:
            loss = make(given, inputs)
        logits = leaf(inputs["logits"])
        value = loss(logits, inputs["targets"] if "targets" in inputs else inputs["target"])
        return {"loss": value, **gradients(value, logits=logits)}

    return adapter


def with_weights(inner: Adapter, weights: Callable[[dict[str, Tensor], dict[str, Any]], Tensor]) -> Adapter:
    """The same, beside the weights of the classes."""
    return lambda inputs, params: {**inner(inputs, params), "class_weight": weights(inputs, params)}


def asymmetric(given: Params, inputs: dict[str, Tensor]) -> Loss:
    given.choice("eps", {1e-8: None})  # here no logit is so far out that it matters
    return Asymmetric(
        gamma_pos=given.take("gamma_pos"), gamma_neg=given.take("gamma_neg"), clip=given.take("clip"),
        detach_focal=given.take("detach_focusing_weight"), reduction=given.choice("reduction", _MEANS),
    )  # fmt: skip


def hill(given: Params, inputs: dict[str, Tensor]) -> Loss:
    return Hill(
        lam=given.take("lamb"), margin=given.take("margin"), gamma=given.take("gamma"),
        reduction=given.choice("reduction", _MEANS),
    )  # fmt: skip


def _comic(given: Params, inputs: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "class_counts": inputs["cls_counts"].tolist(),
        "gamma_pos": given.take("gamma_pos"),
        "gamma_neg": given.take("gamma_neg"),
        "clip": given.take("clip"),
        "power": given.take("weight_power"),
        "detach_focal": given.take("detach_focusing_weight"),
        "reduction": given.choice("reduction", _MEANS),
    }


def multi_focal_modifier(given: Params, inputs: dict[str, Tensor]) -> Loss:
    together = inputs["co_occurrence"].tolist()
    return MultiFocalModifier(co_occurrence=together, boost=given.take("gamma_class_neg"), **_comic(given, inputs))


def multi_grained_focal(given: Params, inputs: dict[str, Tensor]) -> Loss:
    return MultiGrainedFocal(**_comic(given, inputs))


def _weights(inputs: dict[str, Tensor], params: dict[str, Any]) -> Tensor:
    return rarity(inputs["cls_counts"].double(), params["weight_power"])


def focal(given: Params, inputs: dict[str, Tensor]) -> Loss:
    return Focal(gamma=given.take("gamma"), reduction=given.choice("reduction", _MEANS))


def cross_entropy(given: Params, inputs: dict[str, Tensor]) -> Loss:
    return CrossEntropy(label_smoothing=given.take("smoothing", 0.0), reduction=given.choice("reduction", _MEANS))


def log_partition(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        coefficient, reduction = given.take("coef"), given.choice("reduction", _MEANS)
    logits = leaf(inputs["logits"])
    z_term = ZLoss(coefficient, reduction=reduction)(logits, inputs["target"])
    loss = CrossEntropy(reduction=reduction)(logits, inputs["target"]) + z_term
    return {"loss": loss, "z_term": z_term, **gradients(loss, logits=logits)}


def of_another_library(name: str, *options: str, **renamed: str) -> Adapter:
    """A configuration's loss; its own options by their names, or as the case names them."""

    def make(given: Params, inputs: dict[str, Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        chosen = {option: value for option in options if (value := given.take(option, None)) is not None}
        chosen |= {ours: given.take(theirs) for ours, theirs in renamed.items()}
        given.choice("reduction", _MEANS, None)
        loss = wrapped(name, **chosen)
        return lambda logits, target: loss(logits=logits, target=target)

    return of_logits(make)


def distribution_balanced(given: Params, inputs: dict[str, Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    options = ("num_samples", "map_alpha", "map_beta", "map_mu", "neg_scale", "init_bias", "focal_gamma")
    chosen = {name: given.take(name) for name in (*options, "focal_balance")}
    given.choice("reduction", _MEANS)
    loss = wrapped("distribution_balanced", class_counts=inputs["cls_counts"].tolist(), **chosen)
    return lambda logits, target: loss(logits=logits, target=target)


def of_embeddings(name: str, **options: str) -> Adapter:
    """A loss of pytorch-metric-learning."""

    def adapter(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
        with Params(params) as given:
            chosen = {ours: given.take(theirs) for ours, theirs in options.items()}
            given.choice("reduction", _MEANS)
        embeddings = leaf(inputs["embeddings"])
        value = wrapped(name, **chosen)(features=embeddings, target=inputs["labels"])
        return {"loss": value, **gradients(value, embeddings=embeddings)}

    return adapter


def binned(make: type[HLGauss] | type[TwoHot], *, edges: bool) -> Adapter:
    """Regression as classification; sigma comes in the numbers' own unit."""

    def adapter(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
        with Params(params) as given:
            low, high, bins = given.take("min_value"), given.take("max_value"), given.take("num_bins")
            options = {"sigma_ratio": given.take("sigma") * bins / (high - low)} if edges else {}
            given.choice("support", {"linspace(min,max,num_bins), bin locations include both ends": None}, None)
            loss = make(low, high, reduction=given.choice("reduction", _MEANS), **options)
        logits = leaf(inputs["logits"])
        value = loss(logits, inputs["target_value"])
        encoded, decoded = loss.encode(inputs["target_value"], bins), loss.decode(logits)
        return {"loss": value, "target_probs": encoded, "decoded_value": decoded, **gradients(value, logits=logits)}

    return adapter


def top_two_soft_labels(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        loss = TopTwoSoftLabels(reduction=given.choice("reduction", _MEANS))
    logits = leaf(inputs["logits"])
    value = loss(logits, inputs["first"], inputs["second"], inputs["confidence"])
    hot = torch.eye(logits.shape[-1], dtype=logits.dtype)
    share = inputs["confidence"].unsqueeze(-1)
    labels = share * hot[inputs["first"]] + (1 - share) * hot[inputs["second"]]
    return {"loss": value, "soft_labels": labels, **gradients(value, logits=logits)}


def bias_loss(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        loss = BiasLoss(
            alpha=given.take("alpha"), beta=given.take("beta"), normalization=given.take("normalisation"),
            reduction=given.choice("reduction", _MEANS),
        ).double()  # fmt: skip
        given.choice("variance", {"unbiased, over all non-batch elements, features detached": None})
    found: dict[str, Tensor] = {}
    for name, key in (("", "features"), ("_second", "features_second_call")):
        if key in inputs:
            logits = leaf(inputs["logits"])
            value = loss(logits, inputs["target"], inputs[key])
            loss.after_step(target=inputs["target"], feature_maps=inputs[key])
            found[f"loss{name}"] = value
            found[f"grad_logits{name}"] = gradients(value, logits=logits)["grad_logits"]
    return {**found, "running_min": loss.smallest}


def margin_log_penalty(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        weight = given.take("lambda_")
    logits = leaf(inputs["logits"])
    value = CrossEntropy()(logits, inputs["y"]) + weight * MarginLogPenalty()(logits, inputs["y"])
    return {"loss": value, "grad": gradients(value, x=logits)["grad_x"]}


def rdrop(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    logits = leaf(inputs["logits"])
    first, second = logits.chunk(2)
    target = torch.zeros(first.shape[:-1], dtype=torch.int64).masked_fill(inputs["pad"].squeeze(-1), -100)
    value = RDrop(reduction="sum")(first, second, target)
    return {"kl_sum": value, **gradients(value, logits=logits)}


ADAPTERS: dict[str, Adapter] = {
    "asymmetric_multilabel": of_logits(asymmetric),
    "asymmetric_singlelabel": of_another_library("asymmetric_single_label", "gamma_pos", "gamma_neg", "eps"),
    "bias_loss": bias_loss,
    "binary_cross_entropy": of_another_library("binary_cross_entropy", "smoothing", "sum_classes", "target_threshold"),
    "cross_entropy": of_logits(cross_entropy),
    "distribution_balanced": of_logits(distribution_balanced),
    "focal": of_logits(focal),
    "hill": of_logits(hill),
    "hl_gauss": binned(HLGauss, edges=True),
    "jsd_cross_entropy": of_another_library("jsd_cross_entropy", "num_splits", "alpha", "smoothing"),
    "log_partition_z_loss": log_partition,
    "margin_log_penalty": margin_log_penalty,
    "multi_focal_modifier": with_weights(of_logits(multi_focal_modifier), _weights),
    "multi_grained_focal": with_weights(of_logits(multi_grained_focal), _weights),
    "poly1": of_another_library("poly_cross_entropy", "epsilon", "smoothing"),
    "poly1_binary": of_another_library("poly_binary_cross_entropy", "epsilon", "gamma", "alpha"),
    "rdrop": rdrop,
    "sigmoid_focal": of_another_library("sigmoid_focal", "alpha", "gamma"),
    "soft_target_cross_entropy": of_logits(cross_entropy),
    "top_two_soft_labels": top_two_soft_labels,
    "two_hot": binned(TwoHot, edges=False),
    "two_way": of_another_library("two_way", "tp", "tn"),
    "zlpr": of_another_library("zlpr"),
}
