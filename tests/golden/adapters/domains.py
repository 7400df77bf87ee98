"""Losses that compare domains, and mixtures of domains."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_losses.losses import CORAL, DANN, MMD, Fishr, GroupDRO, IRMv1, VREx
from lightning_losses.mixins.domain_mixup import mix_domains
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def risks(logits: Tensor, given: Tensors) -> Tensor:
    """The mean over domains of their mean cross-entropies."""
    domains = int(given["domain"].max()) + 1
    return GroupDRO(domains, eta=0.0).double()(logits, given["target"].long(), given["domain"])


def domains_of(given: Tensors) -> int:
    return int(given["domain"].max()) + 1


def irm_v1(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        weight = read.take("lambda")
        estimator = read.take("estimator").split()[0]
        one_logit = read.choice("risk", {"cross-entropy": False, "binary cross-entropy with logits": True})
    scores = leaf(given["logits"])
    logits = torch.stack([torch.zeros_like(scores), scores], dim=1) if one_logit else scores
    penalty = IRMv1(domains_of(given), estimator)(logits, given["target"].long(), given["domain"])
    loss = risks(logits, given) + weight * penalty
    return {"nll": risks(logits, given), "penalty": penalty, "loss": loss, **gradients(loss, logits=scores)}


def vrex(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        weight = read.take("lambda")
    logits = leaf(given["logits"])
    penalty = VREx(domains_of(given))(logits, given["target"], given["domain"])
    loss = risks(logits, given) + weight * penalty
    rows = F.cross_entropy(logits, given["target"], reduction="none")
    each = torch.stack([rows[given["domain"] == domain].mean() for domain in range(domains_of(given))])
    return {"domain_loss": each, "penalty": penalty, "loss": loss, **gradients(loss, logits=logits)}


def coral(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        if read.choice("form", {"covariance only, squared Frobenius / (4 D^2)": True}, False):
            source, target = leaf(given["source"]), leaf(given["target"])
            domain = torch.tensor([0] * len(source) + [1] * len(target))
            loss = CORAL(2, mean_term=False, covariance_weight=0.25)(torch.cat([source, target]), domain)
            return {"loss": loss, **gradients(loss, source=source, target=target)}
        read.choice("covariance", {"divided by n-1": True})
        mean_term = read.take("mean_term")
    features = leaf(given["features"])
    penalty = CORAL(domains_of(given), mean_term)(features, given["domain"])
    return {"penalty": penalty, **gradients(penalty, features=features)}


def mmd(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        gammas = read.take("gammas")
        unbiased = read.choice("estimator", {"biased (V-statistic)": False})
    features = leaf(given["features"])
    penalty = MMD(domains_of(given), gammas, unbiased)(features, given["domain"])
    return {"penalty": penalty, **gradients(penalty, features=features)}


def dann(given: Tensors, params: dict[str, Any]) -> Tensors:
    """A discriminator that is linear."""
    with Params(params) as read:
        gamma, used = read.take("gamma"), read.take("lambda_index_used")
    features, weight = leaf(given["features"]), given["disc_weight"]
    head = torch.nn.Linear(*weight.shape, bias=False, dtype=weight.dtype)
    head.weight.data = weight.mT.clone()
    loss = DANN(weight.shape[1], gamma)
    loss.discriminator = torch.nn.Sequential(head)
    value = loss(features, given["domain"], progress=given["progress"][used].item())
    strengths = torch.stack([torch.as_tensor(loss.strength(one)) for one in given["progress"]])
    slopes = gradients(value, features=features, disc_weight=head.weight)
    slopes["grad_disc_weight"] = slopes["grad_disc_weight"].mT
    return {"lambda": strengths, "domain_loss": value, **slopes}


def fishr(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        ema = read.take("ema")
        read.choice("oneminusema_correction", {True: True})
    classes, width = given["weight"].shape
    loss = Fishr(domains_of(given), classes, width, ema).double()
    outputs: dict[str, list[Tensor]] = {"penalty": [], "grad_weight": [], "grad_features": []}
    for step, target in enumerate(given["target"]):
        features, weight = leaf(given["features"][step]), leaf(given["weight"])
        logits = features @ weight.mT + given["bias"]
        value = loss(logits, target, given["domain"], features)
        loss.after_step(logits=logits, target=target, domain=given["domain"], features=features)
        outputs["penalty"].append(value.detach())
        for name, gradient in gradients(value, weight=weight, features=features).items():
            outputs[name].append(gradient)
    return {name: torch.stack(values) for name, values in outputs.items()}


def domain_mixup(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        weight = leaf(given["weight"])
    classes = weight.shape[1]
    order, domain = given["perm"], given["domain"]
    mixed = mix_domains(given["x"], given["target"], domain, classes, order, given["lam"])
    rows = F.cross_entropy(mixed.inputs @ weight, mixed.target, reduction="none")
    # Pairs of domains weigh the same, where mixtures do here.
    means = [rows[(domain == one) & (mixed.target.sum(dim=1) > 0)].mean() for one in order]
    loss = torch.stack(means).mean()
    return {"loss": loss, **gradients(loss, weight=weight)}


ADAPTERS: dict[str, Adapter] = {
    "coral": coral,
    "dann": dann,
    "domain_mixup": domain_mixup,
    "fishr": fishr,
    "irm_v1": irm_v1,
    "mmd": mmd,
    "vrex": vrex,
}
