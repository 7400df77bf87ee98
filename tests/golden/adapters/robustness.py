"""Losses of clean and attacked inputs, and ensembles against attacks."""

from typing import Any

from torch import Tensor, nn

from lightning_losses.losses import MART, TRADES, AdaptiveSmoothingLoss, SmoothAdversarialCompSum
from lightning_losses.networks.adaptive_smoothing import AdaptiveSmoothing
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


def adaptive_smoothing_loss(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        loss = AdaptiveSmoothingLoss(read.take("bce"), read.take("ce"), read.take("prod"))
    logits, gate = leaf(given["logits"]), leaf(given["gate_logits"])
    value = loss(logits, given["target"], gate, given["gate_target"])
    return {"loss": value, **gradients(value, logits=logits, gate_logits=gate)}


class Given(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, inputs: Tensor) -> Tensor:
        return self.value


def adaptive_smoothing(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        options = {"gate_scale": read.take("gamma_scale"), "gate_bias": read.take("gamma_bias")}
    names = ("accurate_scale", "robust_scale", "least")
    options |= {name: given[name].item() for name in names}
    mixed = AdaptiveSmoothing(
        Given(given["accurate"]), Given(given["robust"]), Given(given["scores"]),
        most=options["least"] + given["width"].item(), **options,
    ).double()  # fmt: skip
    trained = mixed.train().mixture(given["scores"])
    evaluated = mixed.eval()(given["scores"])
    return {"trained": trained.log_probabilities, "gate_logits": trained.gate_score, "evaluated": evaluated}


ADAPTERS: dict[str, Adapter] = {
    "adaptive_smoothing": adaptive_smoothing,
    "adaptive_smoothing_loss": adaptive_smoothing_loss,
    "crossmax": crossmax_of_members,
    "mart": of_a_linear_model(MART),
    "smooth_adversarial_comp_sum": smooth_adversarial_comp_sum,
    "trades": of_a_linear_model(TRADES),
}
