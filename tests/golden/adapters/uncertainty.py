"""Uncertainty as an objective, and conformal sets and intervals."""

import warnings
from typing import Any

import torch
from torch import Tensor

from lightning_losses.calibrators import (
    APS,
    CQR,
    LAC,
    RAPS,
    ConformalSets,
    SplitConformal,
    conformal_p_values,
    conformal_quantile,
    conformal_rank,
)
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


def of_sets(fitted: ConformalSets, given: Tensors) -> Tensors:
    """What a case of sets compares, with its random numbers if it has any."""
    logits, labels, uniforms = given["cal_logits"], given["cal_labels"], given.get("test_u")
    drawn = given["cal_u"].unsqueeze(-1) if "cal_u" in given else None
    fitted.fit(logits, labels, drawn)
    scores = fitted.scores(logits.softmax(-1), drawn).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return {
        "cal_scores": scores,
        "q_hat": fitted.threshold() if fitted.classwise else fitted.threshold()[0],
        "test_scores": fitted.scores(given["test_logits"].softmax(-1), uniforms),
        "sets": fitted(given["test_logits"], uniforms=uniforms).long(),
    }


def conformal_lac(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        return of_sets(LAC(read.take("alpha")), given)


def conformal_mondrian(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        score = read.choice("score", {"lac": LAC})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LAC: for alpha")
            return of_sets(score(read.take("alpha"), classwise=True), given)


def conformal_aps(given: Tensors, params: dict[str, Any]) -> Tensors:
    if "probs" in given:
        with Params(params) as read:
            read.choice("randomised", {False: None})
            read.choice("tie_rule", {"stable, lower class index first": None})
        return {"scores": APS().scores(given["probs"])}
    with Params(params) as read:
        return of_sets(APS(read.take("alpha"), randomised=read.take("randomised")), given)


def conformal_raps(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        alpha, penalty, k_reg = read.take("alpha"), read.take("lam"), read.take("k_reg")
        return of_sets(RAPS(alpha, penalty, k_reg, randomised=read.take("randomised")), given)


def conformal_quantiles(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        scores, alphas = given["scores"], given["alphas"].tolist()
    return {
        "rank": torch.tensor([conformal_rank(len(scores), alpha) for alpha in alphas]),
        "q_hat": torch.stack([conformal_quantile(scores, alpha) for alpha in alphas]),
    }


def p_values(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        read.choice("smoothing", {False: None})
    values = conformal_p_values(given["cal_scores"], given["test_scores"])
    return {"p_values": values, "sets": (values > 0.1).long()}


def conformal_split_regression(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        fitted = SplitConformal(read.take("alpha")).fit(given["cal_pred"], given["cal_target"])
    order = (given["cal_target"] - given["cal_pred"]).abs().argsort().argsort()
    return {
        "cal_scores": fitted.calibration[order],
        "q_hat": fitted.threshold(),
        "intervals": fitted(given["test_pred"]),
    }


def conformal_cqr(given: Tensors, params: dict[str, Any]) -> Tensors:
    low, high, target = given["cal_lower"], given["cal_upper"], given["cal_target"]
    with Params(params) as read:
        fitted = CQR(read.take("alpha")).fit(low, high, target)
    # In the order of the case, which the fit doesn't keep.
    order = torch.maximum(low - target, target - high).argsort().argsort()
    return {
        "cal_scores": fitted.calibration[order],
        "q_hat": fitted.threshold(),
        "intervals": fitted(given["test_lower"], given["test_upper"]),
    }


ADAPTERS: dict[str, Adapter] = {
    "beta_nll": beta_nll,
    "gaussian_nll": gaussian_nll,
    "pinball": pinball,
    "crps_gaussian": crps_gaussian,
    "crps_ensemble": crps_ensemble,
    "energy_score": energy_score,
    "evidential_regression": evidential_regression,
    "evidential_classification": evidential_classification,
    "conformal_lac": conformal_lac,
    "conformal_mondrian": conformal_mondrian,
    "conformal_aps": conformal_aps,
    "conformal_raps": conformal_raps,
    "conformal_quantile": conformal_quantiles,
    "conformal_p_values": p_values,
    "conformal_split_regression": conformal_split_regression,
    "conformal_cqr": conformal_cqr,
}
