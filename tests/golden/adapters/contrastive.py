"""Losses that contrast the embeddings of a batch by their classes."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.losses import ICNN, TCM, HardContrastive, NTXent, SupCon, Triplet
from lightning_losses.losses.base import Loss
from lightning_losses.losses.contrastive.proto_triplet import prototype_violations
from lightning_losses.networks.fixed_reweighting_head import FixedReweightingHead
from lightning_losses.similarities import partner_cross_entropy
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


def nt_xent(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        loss = NTXent(read.take("temperature"))
    z1, z2 = leaf(given["z1"]), leaf(given["z2"])
    value = loss(z1, z2)
    return {"loss": value, **gradients(value, z1=z1, z2=z2)}


def supcon(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        temperature = read.take("temperature")
        read.choice("reduction", {"mean over anchors with non-zero loss": None}, None)
        loss = SupCon(temperature, read.take("base_temperature", temperature))
    if "embeddings" in given:
        return valued(loss, given)
    features = leaf(given["features"])
    value = loss(features[:, 0], given["labels"], features[:, 1])
    return {"loss": value, **gradients(value, features=features)}


def clip_contrastive(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        similarity = leaf(given["similarity"])
    # The columns are unit vectors, so that the rows are the given scores.
    value = partner_cross_entropy(similarity, torch.eye(len(similarity)).to(similarity)).mean() / 2
    return {"loss": value, "grad": gradients(value, similarity=similarity)["grad_similarity"]}


def hard_contrastive(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        hard = HardContrastive(read.take("tau"), read.take("K"))
        simple = HardContrastive(form="simple", weight_of_negatives=read.take("lambda_"))
    return {"hard_loss": hard(given["a"], given["b"]), "simple_loss": simple(given["a"], given["b"])}


ADAPTERS: dict[str, Adapter] = {
    "clip_contrastive": clip_contrastive,
    "fixed_reweighting_head": fixed_reweighting_head,
    "hard_contrastive": hard_contrastive,
    "icnn": icnn,
    "nt_xent": nt_xent,
    "proto_triplet": proto_triplet,
    "supcon": supcon,
    "tcm": tcm,
    "triplet": triplet,
}
