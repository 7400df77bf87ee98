"""Scores of how much an input is like the training data, and how well they tell others from it."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_losses.metrics import out_of_distribution_detection
from lightning_losses.out_of_distribution import KNN, MSP, ODIN, Energy, MaxLogit, ReAct
from lightning_losses.transduction import Prototype, repri_terms
from tests.golden.adapter import Params, gradients, leaf

Tensors = dict[str, Tensor]


def larger(params: Params) -> None:
    params.choice("sign", {"larger = more in-distribution": None})


def no_target(rows: Tensor) -> Tensor:
    return torch.full((len(rows),), -100)


def ood_scores(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        larger(given)
        temperature = given.take("temperature")
    network, logits = nn.Identity(), inputs["logits"]
    return {
        "msp": MSP(temperature)(network, logits).exp(),
        "max_logit": MaxLogit()(network, logits),
        "energy": Energy(temperature)(network, logits),
    }


def ood_knn(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        larger(given)
        given.choice("normalise", {True: None})
        score = KNN("0", given.take("k"))
    network, train = nn.Sequential(nn.Identity()), inputs["train_features"]
    found = score.fit(network, [(train, no_target(train))])(network, inputs["features"])
    return {"score": found, "score_squared": -found.square()}


def ood_react(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        larger(given)
        score = ReAct("0", given.take("percentile"), given.take("temperature"))
    head = nn.Linear(*inputs["weight"].shape).double()
    head.load_state_dict({"weight": inputs["weight"].T, "bias": inputs["bias"]})
    network, train = nn.Sequential(nn.Identity(), head), inputs["train_features"]
    found = score.fit(network, [(train, no_target(train))])(network, inputs["features"])
    return {"threshold": torch.tensor(score.threshold, dtype=torch.float64), "score": found}


class Tanh(nn.Module):
    def __init__(self, w1: Tensor, w2: Tensor) -> None:
        super().__init__()
        self.w1, self.w2 = w1, w2

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.w1) @ self.w2


def ood_odin(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        larger(given)
        given.choice("model", {"tanh(x w1) w2": None})
        score = ODIN(given.take("temperature"), given.take("epsilon"))
    network = Tanh(inputs["w1"], inputs["w2"])
    return {"x_perturbed": score.perturbed(network, inputs["x"]), "score": score(network, inputs["x"]).exp()}


def ood_metrics(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        given.choice("tpr", {0.95: None})
    found = out_of_distribution_detection(inputs["confidence"], inputs["is_ood"].bool())
    return {name: getattr(found, name) for name in ("auroc", "fpr95_ood_positive", "fpr95_id_positive")}


def repri(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        temperature, weights = given.take("temperature"), given.take("weights")
    weight, bias = leaf(inputs["prototype"]), leaf(inputs["bias"])
    names = ("feat_support", "gt_support", "feat_query", "valid_query", "pi")
    terms = repri_terms(Prototype(weight, bias, temperature), *(inputs[name] for name in names))
    loss = sum(share * term for share, term in zip(weights, terms[:3], strict=True)).sum()
    values = {"ce": terms.cross_entropy, "kl": terms.divergence, "entropy": terms.entropy, "marginal": terms.marginal}
    return {**values, "loss": loss, **gradients(loss, prototype=weight, bias=bias)}


ADAPTERS = {
    "ood_scores": ood_scores,
    "ood_knn": ood_knn,
    "ood_react": ood_react,
    "ood_odin": ood_odin,
    "ood_metrics": ood_metrics,
    "repri": repri,
}
