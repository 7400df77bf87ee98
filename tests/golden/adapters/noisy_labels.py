"""Losses for noisy labels."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_losses.losses import (
    AGCE,
    AUL,
    GCE,
    GJS,
    NCE,
    NGCE,
    RCE,
    SCE,
    BiTempered,
    MAEReduced,
    NCEAndAGCE,
    NCEAndRCE,
    TruncatedGCE,
)
from lightning_losses.losses.base import Loss
from lightning_losses.numerics.tempered import tempered_log_probabilities
from tests.golden.adapter import Adapter, Params, gradients, leaf


def loss(read: Callable[[Params], Loss]) -> Adapter:
    """The adapter of a loss of logits and targets, from what makes the loss of its parameters."""

    def adapter(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
        with Params(params) as given:
            built = read(given)
        logits = leaf(inputs["logits"])
        value = built(logits, inputs["target"])
        return {"loss": value, **gradients(value, logits=logits)}

    return adapter


def weight_of_the_label(given: Params) -> float:
    label, prediction = given.take("weights")
    if abs(label + prediction - 1) > 1e-12:
        raise ValueError(f"the weights {label} and {prediction} do not add up to 1")
    return float(label)


def bi_tempered(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        loss = BiTempered(*(given.take(name) for name in ("t1", "t2", "label_smoothing")), reduction="none")
        given.choice("reduction", {"mean": "mean"})
        given.take("num_iters")  # ours are enough for all digits
        given.take("seed")
    logits = leaf(inputs["logits"])
    each = loss(logits, inputs["target"])
    return {
        "loss": each.mean(),
        "loss_per_sample": each,
        "tempered_softmax": tempered_log_probabilities(logits, loss.t2).exp(),
        **gradients(each.mean(), logits=logits),
    }


def plain(kind: type[Loss], *names: str) -> Adapter:
    """The adapter of a loss whose settings have the names of the case's parameters."""
    return loss(lambda given: kind(**{name: given.take(name) for name in (*names, "reduction")}))


def unscaled(kind: type[Loss], *names: str) -> Adapter:
    """As `plain`, of a loss that the authors multiply by a scale of 1."""

    def read(given: Params) -> Loss:
        given.choice("scale", {1.0: 1.0})
        return kind(**{name: given.take(name) for name in (*names, "reduction")})

    return loss(read)


ADAPTERS: dict[str, Adapter] = {
    "gce": plain(GCE, "q"),
    "truncated_gce": loss(
        lambda given: TruncatedGCE(given.take("q"), given.take("k"), reduction=given.take("reduction"))
    ),
    "mae_reduced": unscaled(MAEReduced),
    "rce": unscaled(RCE),
    "sce": plain(SCE, "alpha", "beta"),
    "nce": unscaled(NCE),
    "ngce": unscaled(NGCE, "q"),
    "nce_rce": plain(NCEAndRCE, "alpha", "beta"),
    "nce_agce": plain(NCEAndAGCE, "alpha", "beta", "a", "q"),
    "agce": plain(AGCE, "a", "q"),
    "aul": plain(AUL, "a", "q"),
    "gjs": loss(lambda given: GJS(weight_of_the_label(given), reduction=given.take("reduction"))),
    "bi_tempered": bi_tempered,
}
