"""Uncertainty as an objective."""

from typing import Any

from torch import Tensor

from lightning_losses.losses import (
    BetaNLL,
    CRPSEnsemble,
    CRPSGaussian,
    EnergyScore,
    EvidentialClassification,
    EvidentialRegression,
    GaussianNLL,
    Pinball,
)
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def beta_nll(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        beta = read.take("beta")
        read.choice("constant", {False: None})
        read.choice("reduction", {"sum over D, then mean over N": None})
    mean, variance = leaf(given["mean"]), leaf(given["variance"])
    loss = BetaNLL(beta)(mean, variance, given["target"])
    each = BetaNLL(beta, reduction="none")(mean, variance, given["target"])
    return {"loss": loss, "loss_per_sample": each, **gradients(loss, mean=mean, variance=variance)}


def gaussian_nll(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        loss = GaussianNLL(
            floor=read.take("eps"), full=read.take("full"), reduction=read.take("reduction"),
            floor_gradient=read.choice("floor_gradient", {"straight-through": "straight_through"}),
        )  # fmt: skip
    mean, variance = leaf(given["mean"]), leaf(given["variance"])
    value = loss(mean, variance, given["target"])
    return {"loss": value, **gradients(value, mean=mean, variance=variance)}


def pinball(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        levels = read.take("quantiles")
        read.choice("reduction", {"sum over Q, then mean over N": None})
    pred = leaf(given["pred"])
    value = Pinball(levels)(pred, given["target"])
    mean = Pinball(levels, quantile_reduction="mean")(pred, given["target"])
    return {"loss": value, "loss_mean_all": mean, **gradients(value, pred=pred)}


def crps_gaussian(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        read.choice("reduction", {"mean for the gradients": None})
    mean, sigma = leaf(given["mean"]), leaf(given["sigma"])
    loss = CRPSGaussian()(mean, sigma, given["target"])
    each = CRPSGaussian(reduction="none")(mean, sigma, given["target"])
    return {"loss": loss, "crps": each, **gradients(loss, mean=mean, sigma=sigma)}


def crps_ensemble(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        estimator = read.take("estimator")
        read.choice("reduction", {"mean for the gradient": None})
    ensemble = leaf(given["ensemble"])
    loss = CRPSEnsemble(estimator)(ensemble, given["target"])
    each = CRPSEnsemble(estimator, reduction="none")(ensemble, given["target"])
    return {"loss": loss, "crps": each, **gradients(loss, ensemble=ensemble)}


def energy_score(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        options = {"estimator": read.take("estimator"), "exponent": float(read.take("exponent"))}
        read.choice("reduction", {"mean for the gradient": None})
    ensemble = leaf(given["ensemble"])
    loss = EnergyScore(**options)(ensemble.mT, given["target"])
    each = EnergyScore(**options, reduction="none")(ensemble.mT, given["target"])
    return {"loss": loss, "score": each, **gradients(loss, ensemble=ensemble)}


def evidential_regression(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        coefficient = read.take("coeff")
        read.choice("detach_error", {False: None})
        loss = EvidentialRegression(coefficient, reduction=read.take("reduction"))
    evidential, target = leaf(given["evidential"]), given["target"]
    value = loss(evidential, target)
    nll = EvidentialRegression(0.0, reduction="none")(evidential, target)
    both = EvidentialRegression(1.0, reduction="none")(evidential, target)
    return {"loss": value, "nll": nll, "reg": both - nll, **gradients(value, evidential=evidential)}


def evidential_classification(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        share = read.take("epoch") / read.take("annealing_steps")
        read.choice("coef", {share: None})
        loss = EvidentialClassification(
            form=read.take("form"), activation=read.take("evidence"), annealing=1.0, reduction=read.take("reduction")
        )
    logits = leaf(given["logits"])
    value = loss(logits, given["target"], progress=share)
    return {"loss": value, **gradients(value, logits=logits)}


ADAPTERS: dict[str, Adapter] = {
    "beta_nll": beta_nll,
    "gaussian_nll": gaussian_nll,
    "pinball": pinball,
    "crps_gaussian": crps_gaussian,
    "crps_ensemble": crps_ensemble,
    "energy_score": energy_score,
    "evidential_regression": evidential_regression,
    "evidential_classification": evidential_classification,
}
