"""Losses of clean and attacked inputs, and ensembles against attacks."""

from typing import Any

from torch import Tensor

from lightning_losses.losses import MART, TRADES, SmoothAdversarialCompSum
from lightning_losses.networks.crossmax import crossmax
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def of_a_linear_model(kind: type[MART] | type[TRADES]) -> Adapter:
    def adapter(given: Tensors, params: dict[str, Any]) -> Tensors:
        with Params(params) as read:
            loss = kind(beta=read.take("beta"))
            for of_the_attack in ("step_size", "epsilon", "perturb_steps", "distance"):
                read.take(of_the_attack)
        weight = leaf(given["W"])
        value = loss(given["x"] @ weight, given["x_adv"] @ weight, given["y"])
        return {"loss": value, **gradients(value, W=weight)}

    return adapter


def smooth_adversarial_comp_sum(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        options = {name: read.take(name) for name in ("tau", "rho", "nu", "reduction")}
    logits, attacked = leaf(given["logits"]), leaf(given["logits_adversarial"])
    value = SmoothAdversarialCompSum(**options)(logits, attacked, given["target"])
    return {"loss": value, **gradients(value, logits=logits, logits_adversarial=attacked)}


def crossmax_of_members(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        logits = leaf(given["logits"])
        out = crossmax(logits, k=read.take("k"))
    return {"out": out, "grad": gradients(out.square().sum(), logits=logits)["grad_logits"]}


ADAPTERS: dict[str, Adapter] = {
    "crossmax": crossmax_of_members,
    "mart": of_a_linear_model(MART),
    "smooth_adversarial_comp_sum": smooth_adversarial_comp_sum,
    "trades": of_a_linear_model(TRADES),
}
