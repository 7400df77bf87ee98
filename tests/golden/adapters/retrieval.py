"""Adapters of the losses of retrieval and of the scores that they are made of."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.losses import DecoupledSoftmax, MultilabelInfoNCE, SoftTopKLoss, TripletOHNM
from lightning_losses.losses.base import Loss
from lightning_losses.metrics.ranked_labels import (
    label_propensities,
    precision_at_k,
    propensity_scored_precision_at_k,
)
from lightning_losses.numerics.maxsim import maxsim
from lightning_losses.numerics.soft_topk import log_soft_topk, soft_topk
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def dexml(criterion: str) -> Adapter:
    """A loss of scores against the labels of each row."""

    def adapter(inputs: Tensors, params: dict[str, Any]) -> Tensors:
        with Params(params) as given:
            given.choice("criterion", {criterion: None})
            # All labels here are 0 or 1, so that they weigh as they count.
            given.choice("weighted_by_relevance", {True: None, False: None})
            given.choice("reduction", {"see sheet; divides by the number of queries": None})
            given.take("n_iter")  # Newton's method takes as many steps as it needs
            k, alpha = given.take("topk_K"), given.take("topk_alpha")
        losses: dict[str, Loss] = {"softmax": MultilabelInfoNCE(), "decoupled-softmax": DecoupledSoftmax()}
        loss = SoftTopKLoss(k, alpha) if criterion == "topk" else losses[criterion]
        scores = leaf(inputs["scores_matrix"])
        value = loss(scores, inputs["relevance"])
        return {"loss": value, **gradients(value, scores_matrix=scores)}

    return adapter


def operator(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        k, alpha = given.take("k"), given.take("alpha")
        given.take("n_iter")
    scores = leaf(inputs["scores_matrix"])
    log_chosen = log_soft_topk(scores, k, alpha)
    (product,) = torch.autograd.grad(log_chosen, scores, inputs["cotangent"])
    return {"log_topk": log_chosen, "topk": soft_topk(scores, k, alpha), "vjp_log_topk": product}


def triplet_ohnm(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        given.choice("reduction", {"mean over B*k": None})
        loss = TripletOHNM(
            margin=given.take("margin"), k=given.take("k"), weigh=given.take("apply_softmax"),
            temperature=given.take("tau"),
        )  # fmt: skip
    scores = leaf(inputs["scores_matrix"])
    value = loss(scores, torch.arange(len(scores)), inputs["relevance"])
    return {"loss": value, **gradients(value, scores_matrix=scores)}


def scores_of_tokens(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        given.choice("reduction", {"sum over query tokens of the max over document tokens": None})
    return {"scores_matrix": maxsim(inputs["queries"], inputs["documents"], None, inputs["document_mask"])}


def rankings(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        a, b, ks = given.take("A"), given.take("B"), range(1, given.take("k") + 1)
    train = inputs["training_relevance"]
    propensities = label_propensities(train.sum(dim=0), len(train), a=a, b=b)
    scores, labels = inputs["scores"], inputs["relevance"]
    return {
        "inverse_propensities": 1 / propensities,
        "psprecision": torch.stack([propensity_scored_precision_at_k(scores, labels, propensities, k) for k in ks]),
        "precision": torch.stack([precision_at_k(scores, labels, k).mean() for k in ks]),
    }


ADAPTERS: dict[str, Adapter] = {
    "decoupled_softmax": dexml("decoupled-softmax"),
    "maxsim": scores_of_tokens,
    "multilabel_infonce": dexml("softmax"),
    "propensity_scored_precision": rankings,
    "soft_topk": operator,
    "soft_topk_loss": dexml("topk"),
    "triplet_ohnm": triplet_ohnm,
}
