"""Methods that look at single samples: losses that keep something of each, and co-teaching."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.losses import ALDRKL, ELR, SAF, CrossEntropy, ReflectiveLabelCorrector
from lightning_losses.losses.sample_memory import RememberingLoss
from lightning_losses.mixins.co_teaching import forgotten_share, small_losses
from tests.golden.adapter import Adapter, Params, gradients, leaf


class Rows:
    """What is kept of each sample, in float64."""

    def __init__(self, samples: int, loss: RememberingLoss, logits: Tensor) -> None:
        self.loss = loss
        self.columns = {
            name: row.expand(samples, *row.shape).clone() for name, row in loss.fresh({"logits": logits}).items()
        }

    def visit(self, ids: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch, after which its rows are renewed."""

        def kept(column: str) -> Tensor:
            return self.columns[column][ids]

        given = {"logits": logits, "target": target}
        value = self.loss(**given, **{self.loss.remembers: self.loss.recall(kept, given)})
        for name, row in self.loss.remember(kept, given).items():
            self.columns[name][ids] = row
        return value


def aldr_kl(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        given.choice("normalise", {"divide by mean absolute logit (L1/K)": None})
        loss = ALDRKL(
            margin=given.take("margin"), temperature=given.take("lam0"), alpha=given.take("alpha"),
            softplus=given.take("softplus"), reduction=given.take("reduction"),
        )  # fmt: skip
        rows = Rows(given.take("num_samples"), loss, inputs["logits"])
    outputs = {}
    for call, suffix in (("first", ""), ("second", "_second")):
        logits = leaf(inputs[f"logits{suffix}_call" if suffix else "logits"])
        value = rows.visit(inputs["sample_ids"], logits, inputs["target"])
        outputs |= {f"loss{suffix}": value, f"grad_logits{suffix}": gradients(value, x=logits)["grad_x"]}
        outputs[f"lambda_after_{call}"] = rows.columns["sample_temperature"].clone()
    return outputs


def elr(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        given.choice("clamp", {1e-4: None})
        given.choice("num_classes", {inputs["logits"].shape[-1]: None})
        loss = ELR(coefficient=given.take("lambda"), beta=given.take("beta"))
        rows = Rows(given.take("num_samples"), loss, inputs["logits"][0])
    trace: dict[str, list[Tensor]] = {"loss": [], "grad_logits": [], "targets": []}
    for scores, target, ids in zip(inputs["logits"], inputs["target"], inputs["sample_ids"], strict=True):
        logits = leaf(scores)
        value = rows.visit(ids, logits, target)
        trace["loss"].append(value)
        trace["grad_logits"].append(gradients(value, x=logits)["grad_x"])
        trace["targets"].append(rows.columns["running_targets"].clone())
    return {name: torch.stack(values) for name, values in trace.items()}


def saf(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        given.choice("reduction", {"mean over batch, times temperature squared": None})
        coefficient, temperature = given.take("coef"), given.take("temperature")
    logits = leaf(inputs["logits"])
    term, weighted = (
        SAF(factor, temperature, start=0)(logits, inputs["logits_past"], 0) for factor in (1.0, coefficient)
    )
    return {
        "kl_term": term,
        "weighted_term": weighted,
        "grad_logits_of_weighted_term": gradients(weighted, x=logits)["grad_x"],
    }


def reflective_label_corrector(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    with Params(params) as given:
        size = given.take("batch_size")
        loss = ReflectiveLabelCorrector(
            inputs["class_counts"].tolist(), threshold=given.take("tau"), start=given.take("compute_epoch"),
            margin=given.take("margin"), gamma_pos=given.take("gamma_pos"), gamma_neg=given.take("gamma_neg"),
            clip=given.take("clip"),
        )  # fmt: skip
    trace: dict[str, list[Tensor]] = {"loss": [], "grad_logits": [], "counts": []}
    for scores, multi_hot, epoch in zip(inputs["logits"], inputs["multi_hot"], inputs["epoch"].tolist(), strict=True):
        logits = leaf(scores)
        value = size * loss(logits, multi_hot, epoch)
        loss.after_step(logits, multi_hot, epoch)
        trace["loss"].append(value)
        trace["grad_logits"].append(gradients(value, x=logits)["grad_x"])
        trace["counts"].append((loss.prior.counts + loss.added).long())
    return {name: torch.stack(values) for name, values in trace.items()}


def co_teaching(inputs: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    if "epoch" in inputs:
        with Params(params) as given:
            settings = given.take("forget_rate"), given.take("num_gradual"), given.take("exponent")
        return {
            f"rate_{name}": torch.tensor(
                [forgotten_share(int(t), *settings, form) for t in inputs["epoch"]], dtype=torch.float64
            )
            for name, form in (("reference", "code"), ("paper", "paper"))
        }
    with Params(params) as given:
        share = given.take("forget_rate")
    target, logits = inputs["target"], {n: leaf(inputs[f"logits{n}"]) for n in (1, 2)}
    outputs = {}
    for own, other in ((1, 2), (2, 1)):
        keep = small_losses(CrossEntropy(reduction="none")(logits[own], target), share)
        outputs |= {f"keep{own}": keep.long(), "num_remember": keep.sum()}
        value = CrossEntropy()(logits[other], target.masked_fill(~keep, -100))
        # The authors' code divides by the number once more.
        outputs |= {f"loss{other}": value, f"loss{other}_reference": value / keep.sum()}
        outputs[f"grad_logits{other}"] = gradients(value, x=logits[other])["grad_x"]
    return outputs


ADAPTERS: dict[str, Adapter] = {
    "aldr_kl": aldr_kl,
    "co_teaching": co_teaching,
    "elr": elr,
    "reflective_label_corrector": reflective_label_corrector,
    "saf": saf,
}
