"""Adapters of the losses of preferences that take other than pairs of completions, or more than these."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.losses import D2O, FDPG, INPO, KTO, BradleyTerry, ReferenceKL
from lightning_losses.numerics.divergence_weights import f_divergence_weight
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]

# The cases' names of divergences, where ours are others.
DIVERGENCES = {
    "kl": "forward_kl",
    "reverse_kl": "reverse_kl",
    "js": "js",
    "tv": "total_variation",
    "chi_square": "chi_square",
    "reverse_chi_square": "reverse_chi_square",
}


def of_tokens(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of each token but the first."""
    return logits[:, :-1].log_softmax(dim=-1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)


def kto(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        loss = KTO(
            beta=given.take("beta"), desirable_weight=given.take("desirable_weight"),
            undesirable_weight=given.take("undesirable_weight"), form=given.take("loss_type"),
        )  # fmt: skip
    logits, mask = leaf(inputs["policy_logits"]), inputs["completion_mask"][:, 1:]
    mismatched = [of_tokens(inputs[f"kl_{who}_logits"], inputs["kl_input_ids"]) for who in ("policy", "ref")]
    value = loss(
        of_tokens(logits, inputs["input_ids"]),
        of_tokens(inputs["ref_logits"], inputs["input_ids"]),
        inputs["label"],
        mask,
        *mismatched,
        mask,
    )
    zero = torch.zeros((), dtype=torch.float64)
    kl = loss.reference_point(*mismatched, mask) if loss.form == "kto" else zero
    return {"loss": value, "kl": kl, **gradients(value, policy_logits=logits)}


def bradley_terry(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        loss = BradleyTerry(given.take("center_rewards_coefficient") or 0.0)
    chosen, rejected = leaf(inputs["chosen"]), leaf(inputs["rejected"])
    value = loss(chosen, rejected, inputs.get("margin"))
    accuracy = (chosen > rejected).double().mean()
    return {"loss": value, "accuracy": accuracy, **gradients(value, chosen=chosen, rejected=rejected)}


def inpo(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        loss = INPO(tau=given.take("tau"), eta=given.take("eta"), reduction="none")
    own = leaf(inputs["policy_w"])
    names = ("policy_l", "ref_w", "ref_l", "prev_w", "prev_l")
    values = loss(own.unsqueeze(1), *(inputs[name].unsqueeze(1) for name in names))
    return {"losses": values, **gradients(values.sum(), policy_w=own)}


def d2o(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        loss = D2O(alpha=given.take("alpha"), beta=given.take("beta"))
        given.choice("K", {inputs["policy_self"].shape[1]: None})
    own, negative = leaf(inputs["policy_self"]), leaf(inputs["policy_neg"])
    value = loss(
        own.reshape(-1, 1),
        inputs["ref_minus_self"].reshape(-1, 1),
        negative.unsqueeze(1),
        inputs["ref_plus_neg"].unsqueeze(1),
    )
    return {"loss": value, **gradients(value, policy_self=own, policy_neg=negative)}


def f_dpg(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as given:
        loss = FDPG(given.choice("divergence", DIVERGENCES))
        given.choice("baseline", {"none": None})
        loss.log_sum.fill_(given.take("Z")).log_()
        loss.seen.fill_(1)
    own = leaf(inputs["policy_log_probs"])
    value = loss(own.unsqueeze(1), inputs["target_log_scores"], inputs["proposal_log_probs"].unsqueeze(1))
    return {"loss": value, **gradients(value, policy_log_probs=own)}


def f_distill(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        names = {"softened_rkl": "softened_reverse_kl"} | {
            name: name for name in ("reverse_kl", "forward_kl", "js", "jeffreys", "squared_hellinger")
        }
    return {theirs: f_divergence_weight(inputs["log_ratio"], ours) for theirs, ours in names.items()}


def reference_kl(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        pass
    outputs = {}
    for estimator in ("k1", "k2", "k3"):
        own = leaf(inputs["logps"])
        # A token is a completion here.
        loss = ReferenceKL(estimator, reduction="none")
        value = loss(own.reshape(-1, 1), inputs["ref_logps"].reshape(-1, 1)).reshape(own.shape)
        outputs |= {estimator: value, f"grad_{estimator}": gradients(value.sum(), logps=own)["grad_logps"]}
    return outputs


ADAPTERS: dict[str, Adapter] = {
    "bradley_terry": bradley_terry,
    "d2o": d2o,
    "f_distill": f_distill,
    "f_dpg": f_dpg,
    "inpo": inpo,
    "kto": kto,
    "reference_kl": reference_kl,
}
