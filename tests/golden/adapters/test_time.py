"""What a network learns from its own predictions at test time."""

from typing import Any

from torch import Tensor

from lightning_losses.losses import RMTSymmetricCrossEntropy, SoftLikelihoodRatio, SoftmaxEntropy
from lightning_losses.test_time import occluded
from lightning_losses.test_time.adaptation import row_entropy
from lightning_losses.test_time.deyo import deyo_rows
from lightning_losses.test_time.eata import eata_rows, moved_average
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def entropy(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        logits = leaf(given["logits"])
    value = SoftmaxEntropy()(logits)
    return {"per_sample": SoftmaxEntropy(reduction="none")(logits), "loss": value, **gradients(value, logits=logits)}


def likelihood_ratio(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        settings = {"clip": read.take("clip"), "epsilon": read.take("eps")}
    logits = leaf(given["logits"])
    value = SoftLikelihoodRatio(**settings)(logits)
    return {
        "per_sample": SoftLikelihoodRatio(**settings, reduction="none")(logits),
        **gradients(value, logits=logits),
    }


def symmetric_cross_entropy(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        alpha = read.take("alpha")
    student, teacher = leaf(given["student"]), given["teacher"]
    value = RMTSymmetricCrossEntropy(alpha)(student, teacher)
    return {
        "per_sample": RMTSymmetricCrossEntropy(alpha, reduction="none")(student, teacher),
        "loss": value,
        **gradients(value, student=student),
    }


def eata(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        margins = read.take("e_margin"), read.take("d_margin")
        assert read.take("fisher_alpha") == 0
    logits = leaf(given["logits"])
    rows = eata_rows(logits, given["running_probs"], *margins)
    value = rows.values[rows.kept].mean()
    return {
        "loss": value,
        **gradients(value, logits=logits),
        "running_probs_after": moved_average(given["running_probs"], rows.probabilities[rows.kept].mean(dim=0)),
        "n_reliable": rows.reliable.sum(),
        "n_kept": rows.kept.sum(),
    }


def deyo(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        margin = read.take("deyo_margin")
        settings = {
            "entropy_reference": read.take("margin_e0"),
            "plpd_threshold": read.take("plpd_threshold"),
            "reweight_entropy": bool(read.take("reweight_ent")),
            "reweight_plpd": bool(read.take("reweight_plpd")),
        }
        read.choice("aug", {"occlusion with the per-channel image mean": None})
        square = read.take("occlusion_size"), read.take("row_start"), read.take("column_start")
    weights = leaf(given["W"])
    logits = given["x"].flatten(1) @ weights
    destroyed_logits = (occluded(given["x"], *square).flatten(1) @ weights).detach()
    rows = deyo_rows(logits, destroyed_logits, entropy_margin=margin, **settings)
    value = rows.values[rows.kept].mean()
    return {
        "logits": logits,
        "n_entropy": (row_entropy(logits) < margin).sum(),
        "n_final": rows.kept.sum(),
        **gradients(value, W=weights),
    }


ADAPTERS: dict[str, Adapter] = {
    "softmax_entropy": entropy,
    "soft_likelihood_ratio": likelihood_ratio,
    "rmt_symmetric_cross_entropy": symmetric_cross_entropy,
    "eata": eata,
    "deyo": deyo,
}
