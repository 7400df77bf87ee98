"""Losses of cosines with class vectors."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_losses.losses import EBV, UNPG, ArcFace, CosFace, HypCE, HypPC, MadaCos, NormalizedSoftmax
from lightning_losses.losses.base import Loss
from lightning_losses.losses.margins.unpg import negative_pairs
from lightning_losses.networks.margin_head import MarginHead
from lightning_losses.numerics.poincare import mobius_sum
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]
LAYOUTS = {"[classes, D]": False, "[D, classes]": True}


def cosines_of(given: Tensors, transposed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings and weight as leaves, and the cosines that a head makes of them."""
    embeddings, weight = leaf(given["embeddings"]), leaf(given["weight"])
    vectors = weight.T if transposed else weight
    head = MarginHead(vectors.shape[1], len(vectors))
    return embeddings, weight, torch.func.functional_call(head, {"weight": vectors}, embeddings)


def loss(read: Callable[[Params], Loss]) -> Adapter:
    """The adapter of a loss of cosines, from what makes the loss of its parameters."""

    def adapter(given: Tensors, params: dict[str, Any]) -> Tensors:
        with Params(params) as taken:
            built, transposed = read(taken), taken.choice("weight_layout", LAYOUTS)
        embeddings, weight, cosines = cosines_of(given, transposed)
        value = built(cosines, given["labels"])
        return {"loss": value, **gradients(value, embeddings=embeddings, weight=weight)}

    return adapter


def madacos(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as taken:
        built = MadaCos(taken.take("alpha"), reduction=taken.take("reduction"))
        taken.choice("B", {"value of the sample that attains the (lower) median": "sample"})
        transposed = taken.choice("weight_layout", LAYOUTS)
    embeddings, weight, cosines = cosines_of(given, transposed)
    label = given["labels"]
    value = built(cosines, label)
    scale, margin = built.scale_and_margin(built.given(cosines, label))
    own = F.one_hot(label, cosines.shape[1]).to(cosines)
    target = (own * cosines).sum(dim=1)
    median = target.median()
    others = (scale * cosines).exp() * (1 - own)
    return {
        "loss": value,
        "margin": margin.reshape(1),
        "scale": scale.reshape(1),
        "median_target_cosine": median.reshape(1),
        "B": others[target == median].sum().reshape(1),
        "logits_out": scale * (cosines - margin * own),
        **gradients(value, embeddings=embeddings, weight=weight),
    }


def unpg(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as taken:
        options = {name: taken.take(name) for name in ("scale", "margin", "whisker", "reduction")}
        built = UNPG(variant=taken.take("head"), **options)
        transposed = taken.choice("weight_layout", LAYOUTS)
    embeddings, weight, cosines = cosines_of(given, transposed)
    label = given["labels"]
    value = built(cosines, label, embeddings)
    directions = F.normalize(given["embeddings"], dim=-1)
    similarities = directions @ directions.T
    pairs = negative_pairs(similarities, label, torch.ones_like(label, dtype=torch.bool), built.whisker)
    return {
        "loss": value,
        "kept_negative_sims_sorted": similarities[pairs].sort().values,
        **gradients(value, embeddings=embeddings, weight=weight),
    }


def ebv(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as taken:
        built = EBV(**{name: taken.take(name) for name in ("temperature", "label_smoothing", "reduction")})
    features = leaf(given["features"])
    head = MarginHead(*reversed(given["basis"].shape), fixed=True)
    value = built(torch.func.functional_call(head, {"weight": given["basis"]}, features), given["target"])
    return {"loss": value, **gradients(value, features=features)}


def hyp_ce(given: Tensors, params: dict[str, Any]) -> Tensors:
    names = {"c": "curvature", "clip_radius": "clip_radius", "riemannian_gradient": "riemannian_gradient"}
    with Params(params) as taken:
        options = {ours: taken.take(theirs) for theirs, ours in names.items()}
    classes, width = given["a"].shape
    built = HypCE(classes, width, pseudo_negatives=False, **options).double()
    state = {"normals": given["a"], "offsets": given["p"], "base": given["base_point"]}
    built.head.load_state_dict(state)
    features = leaf(given["features"])
    value = built(features, given["target"])
    return {
        "loss": value,
        "ball_points": built.head.points(features),
        "logits_out": built.head(features),
        **gradients(value, features=features),
    }


def hyp_pc(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as taken:
        curvature, batch = taken.take("c"), taken.take("batch")
    points = leaf(given["ball_points"])
    assert len(points) == batch
    # The embeddings that lead to these points, short enough to be left as they are.
    length = points.detach().norm(dim=1, keepdim=True)
    embeddings = torch.atanh(curvature**0.5 * length) / (curvature**0.5 * length) * points.detach()
    one_class = torch.zeros(batch, dtype=torch.int64)
    value = HypPC(curvature, clip_radius=None)(embeddings, one_class)
    left, right = points.split(batch // 2)
    apart = mobius_sum(-left, right, curvature).norm(dim=1)
    of_code = (2 / curvature**0.5 * torch.atan(curvature**0.5 * apart)).sum() / batch
    slope = gradients(of_code, code_arctan=points)
    return {"loss_paper_artanh": value, "loss_code_arctan": of_code, **slope}


ADAPTERS: dict[str, Adapter] = {
    "arcface": loss(
        # Degrees there, radians here.
        lambda taken: ArcFace(
            math.radians(taken.take("margin_degrees")), scale=taken.take("scale"), reduction=taken.take("reduction")
        )
    ),
    "cosface": loss(
        lambda taken: CosFace(taken.take("margin"), scale=taken.take("scale"), reduction=taken.take("reduction"))
    ),
    "normalized_softmax": loss(
        lambda taken: NormalizedSoftmax(taken.take("temperature"), reduction=taken.take("reduction"))
    ),
    "ebv": ebv,
    "hyp_ce": hyp_ce,
    "hyp_pc": hyp_pc,
    "madacos": madacos,
    "unpg": unpg,
}
