"""Losses that contrast the embeddings of a batch by their classes."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.losses import ICNN, TCM, Triplet
from lightning_losses.losses.base import Loss
from lightning_losses.losses.contrastive.proto_triplet import prototype_violations
from lightning_losses.networks.fixed_reweighting_head import FixedReweightingHead
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def valued(loss: Loss, given: Tensors) -> Tensors:
    embeddings = leaf(given["embeddings"])
    value = loss(embeddings, given["labels"])
    return {"loss": value, **gradients(value, embeddings=embeddings)}


def triplet(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        margin = read.take("margin")
        read.choice("distance", {"L2 of L2-normalised embeddings": None})
        read.choice("reduction", {"mean over triplets with non-zero loss": None})
    return valued(Triplet(margin), given)


def tcm(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        loss = TCM(*(read.take(name) for name in ("margin_plus", "margin_minus", "lambda_plus", "lambda_minus")))
    return valued(loss, given)


def icnn(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        loss = ICNN(read.take("k"), read.take("neighbours_searched"))
    outputs = valued(loss, given)
    return {**outputs, "score": (-outputs["loss"]).exp()}


def proto_triplet(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        margin = read.take("margin")
        read.choice("distance", {"sqrt(squared L2 + 1e-6)": None})
        read.choice("reduction", {"mean over queries": None})
    queries, prototypes = leaf(given["queries"]), leaf(given["prototypes"])
    own = given["query_labels"].unsqueeze(1) == given["prototype_labels"].unsqueeze(0)
    values, counted = prototype_violations(queries, prototypes, own, ~own, margin)
    value = values.sum() / torch.as_tensor(counted).sum()
    return {"loss": value, **gradients(value, queries=queries, prototypes=prototypes)}


def fixed_reweighting_head(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        head = FixedReweightingHead(read.take("kappa"))
    return {"z": head(given["h"])}


ADAPTERS: dict[str, Adapter] = {
    "fixed_reweighting_head": fixed_reweighting_head,
    "icnn": icnn,
    "proto_triplet": proto_triplet,
    "tcm": tcm,
    "triplet": triplet,
}
