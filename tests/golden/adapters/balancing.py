"""Policies that balance the terms of an objective."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.balancing import (
    DWA,
    IMTLG,
    IMTLL,
    MGDA,
    RLW,
    AlignedMTL,
    Balancing,
    CAGrad,
    GradientBalancing,
    GradNorm,
    NashMTL,
    PCGrad,
    ReLoBRaLo,
    UncertaintyWeighting,
    UPGrad,
)
from lightning_losses.balancing.base import Step
from tests.golden.adapter import Params, gradients, leaf

Tensors = dict[str, Tensor]


def begun(policy: Balancing, terms: int) -> Any:
    policy.begin(terms)
    return policy.double()


def learned(policy: Balancing, given: Tensors, state: str, parameter: str) -> Tensors:
    """Value and gradients of a policy whose parameter is learned with the network."""
    policy = begun(policy, len(given["losses"]))
    losses = leaf(given["losses"])
    with torch.no_grad():
        getattr(policy, parameter).copy_(given[state])
    value = (policy.weights(losses) * losses + policy.penalties()).sum()
    return {"loss": value, **gradients(value, **{"losses": losses, state: getattr(policy, parameter)})}


def uncertainty_weighting(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        kinds = read.take("kinds")
        read.take("form")
    return learned(UncertaintyWeighting(kinds=kinds), given, "log_var", "log_variance")


def imtl_l(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        return learned(IMTLL(), given, "log_scale", "log_scale")


def dwa(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        policy = begun(DWA(temperature=read.take("temperature")), given["losses"].shape[-1])
    weights = []
    for epoch in given["losses"]:
        for losses in epoch:
            weights.append(policy.weights(losses))
            policy.update(Step(losses))
        policy.end_epoch()
    stacked = torch.stack(weights).view_as(given["losses"])
    return {"weights": stacked, "loss": (stacked * given["losses"]).sum(dim=-1)}


def rlw(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        policy = begun(RLW(), len(given["losses"]))
    policy.draws = lambda: given["draws"]
    weights = policy.weights(given["losses"])
    return {"weights": weights, "loss": weights @ given["losses"]}


def gradnorm(given: Tensors, params: dict[str, Any]) -> Tensors:
    jacobian = given["jacobian"]
    with Params(params) as read:
        raw = read.choice("parametrisation", {"raw": True, "softmax": False})
        options = {"alpha": read.take("alpha"), "lr": read.take("lr", 0.025)}
        read.take("optimizer", "")
    policy = begun(GradNorm(parametrisation="raw" if raw else "softmax", **options), len(jacobian))
    policy.first.copy_(given["initial_losses"])
    policy.learned.copy_(given["weights_in" if raw else "logits"])
    step = Step(given["losses"], jacobian.norm(dim=1))
    weights = policy.weights(given["losses"])
    value, gradient = policy.gradient(step)
    policy.update(step)
    return {
        "weights": weights,
        "gradnorm_loss": value,
        "grad_weights" if raw else "grad_logits": gradient,
        "weights_next": policy.weights(given["losses"]),
        "direction": weights @ jacobian,
    }


def relobralo(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        policy = ReLoBRaLo(alpha=read.take("alpha"), temperature=read.take("temperature"))
        read.take("alpha_schedule")
        read.choice("initial_loss", {"losses[0]": None})
    policy = begun(policy, given["losses"].shape[1])
    weights = []
    for losses, keeps in zip(given["losses"], given["rho"].tolist(), strict=True):
        policy.keeps = lambda keeps=keeps: keeps == 1
        weights.append(policy.weights(losses))
        policy.update(Step(losses))
    stacked = torch.stack(weights)
    return {"weights": stacked, "loss": (stacked * given["losses"]).sum(dim=-1)}


def direction(policy: GradientBalancing, given: Tensors) -> Tensors:
    jacobian = given["jacobian"]
    policy = begun(policy, len(jacobian))
    weights = policy.coefficients(jacobian @ jacobian.T)
    return {"weights": weights, "direction": weights @ jacobian}


def pcgrad(given: Tensors, params: dict[str, Any]) -> Tensors:
    policy = PCGrad()
    policy.orders = lambda terms: given["order"].tolist()
    with Params(params):
        return direction(policy, given)


def cagrad(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        c = read.take("c")
        read.choice("rescale", {0: None})
    plain = direction(CAGrad(c=c), given)
    # The simplex's weights are what is left of the mean, up to a factor.
    simplex = plain["weights"] - 1 / len(plain["weights"])
    rescaled = direction(CAGrad(c=c, rescale=1), given)["direction"]
    return {**plain, "simplex_weights": simplex / simplex.sum(), "direction_rescale1": rescaled}


def mgda(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        read.choice("normalise", {"none": None})
    return direction(MGDA(), given)


def nash_mtl(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        clipped = direction(NashMTL(max_norm=read.take("max_norm")), given)["direction"]
    whole = direction(NashMTL(max_norm=0.0), given)
    return {"alpha": whole["weights"], "direction": whole["direction"], "direction_clipped": clipped}


def imtl_g(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        return direction(IMTLG(), given)


def mean_of(preference: Tensor) -> str:
    assert torch.allclose(preference, torch.full_like(preference, 1 / len(preference)))
    return "mean"


def aligned_mtl(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        scale = read.take("scale_mode")
    return direction(AlignedMTL(scale=scale, reduction=mean_of(given["preference"])), given)


def upgrad(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        read.choice("reg_eps", {0.0: None})
        # Where gradients are shorter the reference gives up.
        read.take("norm_eps")
        read.take("gram")
    return direction(UPGrad(reduction=mean_of(given["preference"])), given)


ADAPTERS = {
    "uncertainty_weighting": uncertainty_weighting,
    "imtl_l": imtl_l,
    "dwa": dwa,
    "rlw": rlw,
    "gradnorm": gradnorm,
    "relobralo": relobralo,
    "pcgrad": pcgrad,
    "cagrad": cagrad,
    "mgda": mgda,
    "nash_mtl": nash_mtl,
    "imtl_g": imtl_g,
    "aligned_mtl": aligned_mtl,
    "upgrad": upgrad,
}
