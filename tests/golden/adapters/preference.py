"""Adapters of the losses of preferences: on logits (TRL), on hidden states (Liger), and of whole completions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_losses.kernels.token_record import token_record
from lightning_losses.losses import (
    AOT,
    CPO,
    DPO,
    FDPO,
    IPO,
    ORPO,
    APODown,
    APOZero,
    BCOPair,
    CompletionNLL,
    DiscoPOP,
    DPONorm,
    EXOPair,
    HingeDPO,
    NCAPair,
    RobustDPO,
    SimPO,
    SPPOHard,
)
from lightning_losses.losses.base import Loss
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]

DIRECT: dict[str, type[Loss]] = {
    "sigmoid": DPO,
    "hinge": HingeDPO,
    "ipo": IPO,
    "nca_pair": NCAPair,
    "bco_pair": BCOPair,
    "sppo_hard": SPPOHard,
    "apo_zero": APOZero,
    "apo_down": APODown,
    "discopop": DiscoPOP,
    "sigmoid_norm": DPONorm,
    "aot": AOT,
    "robust": RobustDPO,
    "exo_pair": EXOPair,
}
# TRL's words for what the losses here call otherwise.
OPTIONS = {"label_smoothing": "label_smoothing", "discopop_tau": "temperature", "ld_alpha": "tail_weight"}


def trl_terms(given: Params) -> list[tuple[Loss, float]]:
    """The losses of TRL's DPOTrainer with these parameters, and their weights."""
    beta = given.take("beta")
    if divergence := given.take("f_divergence_type", None):
        coefficient = given.take("f_alpha_divergence_coef", 0.5)
        own = {"js_divergence": "js", "alpha_divergence": "alpha"}.get(divergence, divergence)
        return [(FDPO(beta, own, 1 - coefficient), 1.0)]
    kinds = given.take("loss_type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    weights = given.take("loss_weights", [1.0] * len(kinds))
    options = {own: value for name, own in OPTIONS.items() if (value := given.take(name, None)) is not None}
    if given.take("use_weighting", False):
        options["weighting"] = True
    losses = [CompletionNLL() if kind == "sft" else DIRECT[kind](beta=beta, **options) for kind in kinds]
    return list(zip(losses, weights, strict=True))


def on_logits(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    """TRL's DPOTrainer: logits of chosen, then of rejected completions."""
    with Params(params) as given:
        terms = trl_terms(given)
    logits, ids, mask = leaf(inputs["policy_logits"]), inputs["input_ids"][:, 1:], inputs["completion_mask"][:, 1:]

    def scored(of: Tensor) -> tuple[Tensor, Tensor]:
        log_p = of[:, :-1].log_softmax(dim=-1)
        return log_p.gather(-1, ids.unsqueeze(-1)).squeeze(-1), (2 * log_p).logsumexp(dim=-1)

    (logps, collisions), (reference, _) = scored(logits), scored(inputs["ref_logits"])
    names = ("logps", "mask", "log_collisions")
    tensors = {
        f"{side}_{name}": part
        for name, both in zip(names, (logps, mask, collisions), strict=True)
        for side, part in zip(("chosen", "rejected"), both.chunk(2), strict=True)
    }
    tensors["ref_chosen_logps"], tensors["ref_rejected_logps"] = reference.chunk(2)
    value = sum(
        weight * loss(**{name: tensors[name] for name in loss.inputs() if name in tensors}) for loss, weight in terms
    )
    return {
        "loss": value,
        "policy_logps": (logps * mask).sum(dim=1),
        "ref_logps": (reference * mask).sum(dim=1),
        **gradients(value, policy_logits=logits),
    }


def fused(name: str, inputs: Tensors, params: dict[str, Any]) -> Tensors:
    """Liger's chunked losses: hidden states of chosen, then of rejected completions, and the head."""
    with Params(params) as given:
        beta, alpha, gamma = given.take("beta"), given.take("alpha", 1.0), given.take("gamma", 0.5)
        nll_weight = alpha if given.take("compute_nll_loss") else 0.0
        given.choice("average_log_prob", {False: None}, None)
    hidden, weight, labels = leaf(inputs["input"]), leaf(inputs["weight"]), inputs["labels"]
    record = token_record(hidden, weight, labels)
    (chosen, rejected), (mask, other) = record.logps.chunk(2), record.kept.chunk(2)
    if name == "dpo":
        reference = token_record(inputs["ref_input"], inputs["ref_weight"], labels).logps.chunk(2)
        value = DPO(beta)(chosen, rejected, *reference, mask, other)
    else:
        loss: dict[str, Callable[[], Loss]] = {
            "cpo": lambda: CPO(beta, nll_weight=0.0),
            "simpo": lambda: SimPO(beta, gamma),
            "orpo": lambda: ORPO(beta, nll_weight=0.0),
        }
        value = loss[name]()(chosen, rejected, mask, other)
    nll = CompletionNLL()(chosen, mask)
    value = value + nll_weight * nll
    average = name in ("simpo", "orpo")
    sums = record.logps.sum(dim=1) / (record.kept.sum(dim=1) if average else 1)
    return {
        "loss": value,
        "nll_loss": nll if nll_weight else torch.zeros_like(nll),
        "chosen_logps": sums.chunk(2)[0],
        "rejected_logps": sums.chunk(2)[1],
        **gradients(value, input=hidden, weight=weight),
    }


def without_reference(name: str, inputs: Tensors, params: dict[str, Any]) -> Tensors:
    """TRL's functions of CPO, SimPO and ORPO, of sums or means of completions, each taken for a token."""
    with Params(params) as given:
        beta = given.take("beta")
        if name == "orpo":
            loss: Any = ORPO(beta, nll_weight=0.0, reduction="none")
        else:
            smoothing, alpha = given.take("label_smoothing"), given.take("alphapo_alpha")
            link, gamma = given.take("loss_type"), given.take("simpo_gamma", 0.0)
            loss = (
                SimPO(beta, gamma, alpha, smoothing, reduction="none")
                if link == "simpo"
                else CPO(beta, smoothing, link, 0.0, reduction="none")
            )
    chosen, rejected = leaf(inputs["policy_chosen_logps"]), leaf(inputs["policy_rejected_logps"])
    losses = loss(chosen.unsqueeze(1), rejected.unsqueeze(1))
    if name == "orpo":
        # What TRL adds with a minus.
        margins = torch.log(torch.expm1(losses.double() / beta))
        return {
            "neg_losses": -losses,
            "mean_log_odds": -margins.mean(),
            **gradients(losses.mean(), chosen=chosen, rejected=rejected),
        }
    rewards = loss.rewards if name == "simpo" else lambda each: each
    return {
        "losses": losses,
        "chosen_rewards": beta * rewards(chosen),
        "rejected_rewards": beta * rewards(rejected),
        **gradients(losses.sum(), chosen=chosen, rejected=rejected),
    }


def authors_f_dpo(inputs: Tensors, params: dict[str, Any]) -> Tensors:
    """The functions of the authors of f-DPO, of whole completions."""
    with Params(params) as given:
        loss = FDPO(given.take("beta"), given.take("divergence"), given.take("alpha", 0.5), reduction="none")
    chosen, rejected = leaf(inputs["policy_chosen_logps"]), leaf(inputs["policy_rejected_logps"])
    reference = inputs["reference_chosen_logps"], inputs["reference_rejected_logps"]
    losses = loss(*(each.unsqueeze(1) for each in (chosen, rejected, *reference)))
    # The authors' f' lacks the constant that makes it 0 where policy and reference agree.
    constant = {"forward_kl": 1.0, "alpha": 1 / loss.alpha}.get(loss.divergence, 0.0)
    rewards = [
        loss.beta * (loss.rewards(own - ref) - constant) for own, ref in zip((chosen, rejected), reference, strict=True)
    ]
    return {
        "losses": losses,
        "chosen_rewards": rewards[0],
        "rejected_rewards": rewards[1],
        **gradients(losses.sum(), policy_chosen=chosen, policy_rejected=rejected),
    }


def adapter_of(name: str) -> Adapter:
    """The adapter of a method, by what its cases are given."""

    def adapter(inputs: Tensors, params: dict[str, Any]) -> Tensors:
        if "policy_logits" in inputs:
            return on_logits(inputs, params)
        if "labels" in inputs:
            return fused(name, inputs, params)
        if "reference_chosen_logps" in inputs:
            return authors_f_dpo(inputs, params)
        return without_reference(name, inputs, params)

    return adapter


METHODS = [*(loss.identifier() for loss in DIRECT.values()), "f_dpo", "completion_nll", "cpo", "simpo", "orpo"]

ADAPTERS: dict[str, Adapter] = {name: adapter_of(name) for name in METHODS}
