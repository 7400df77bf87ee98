"""Losses over classes."""

from typing import Any

from torch import Tensor

from lightning_losses.losses import (
    LDRKL,
    CompSum,
    ConfidencePenalty,
    CrammerSinger,
    CrossEntropy,
    EntmaxLoss,
    LogSphericalSoftmax,
    LogTaylorSoftmax,
    SparsemaxLoss,
    SphericalZLoss,
    WestonWatkins,
)
from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.two_pass_softmax import exponent_pair, log_of, merged, two_pass_softmax
from lightning_losses.objective import Objective, Term
from tests.golden.adapter import Adapter, Params, gradients, leaf


def loss(kind: type[RowLoss], fixed: dict[str, Any] | None = None, **names: str) -> Adapter:
    """The adapter of a loss, from its settings by name, each with the case's name of it."""

    def adapter(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
        with Params(params) as given:
            options = {name: given.take(theirs) for name, theirs in names.items()}
            built = kind(**options, **(fixed or {}), reduction=given.take("reduction"))
        logits = leaf(inputs["logits"])
        value = built(logits, inputs["target"])
        built.reduction = "none"
        each = built(logits, inputs["target"])
        return {"loss": value, "loss_per_sample": each, **gradients(value, logits=logits)}

    return adapter


def ldr_kl(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    normalize = {"softplus then divide by the row mean": "softplus_mean"}[params["normalise"]]
    rest = {name: value for name, value in params.items() if name != "normalise"}
    return loss(LDRKL, {"normalize": normalize}, margin="margin", temperature="lam")(inputs, rest)


def entropy_penalised_ce(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        penalty = Term(ConfidencePenalty(), weight=-given.take("coef"))
        given.choice("reduction", {"mean": "mean"})
    logits = leaf(inputs["logits"])
    value = Objective({"ce": CrossEntropy(), "entropy": penalty})(logits=logits, target=inputs["target"]).total
    return {"loss": value, **gradients(value, logits=logits)}


def two_pass(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        given.choice("representation", {"exp(x) = m * 2**n, n = round(x*log2 e)": None})
    pair = exponent_pair(inputs["x"])
    return {
        "softmax": two_pass_softmax(inputs["x"]),
        "logsumexp": log_of(merged(pair)),
        "mantissa": pair.mantissa,
        "exponent": pair.exponent,
    }


ADAPTERS: dict[str, Adapter] = {
    "comp_sum": loss(CompSum, tau="tau"),
    "ldr_kl": ldr_kl,
    "crammer_singer": loss(CrammerSinger, margin="threshold"),
    "weston_watkins": loss(WestonWatkins, margin="threshold"),
    "sparsemax_loss": loss(SparsemaxLoss),
    "entmax_loss": loss(EntmaxLoss, alpha="alpha"),
    "log_spherical_softmax": loss(LogSphericalSoftmax, eps="eps"),
    "log_taylor_softmax": loss(LogTaylorSoftmax),
    # The formula has no epsilon.
    "spherical_z_loss": loss(SphericalZLoss, {"epsilon": 1e-15}, a="a", b="b"),
    "entropy_penalised_ce": entropy_penalised_ce,
    "two_pass_softmax": two_pass,
}
