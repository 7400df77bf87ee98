"""Losses that keep something of each sample, over several visits."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.losses import ALDRKL, ELR, SAF
from lightning_losses.losses.sample_memory import RememberingLoss
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


ADAPTERS: dict[str, Adapter] = {"aldr_kl": aldr_kl, "elr": elr, "saf": saf}
