"""Losses that make a language model forget, and audits of what it remembers."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.losses import NPO, WGA, ContrastiveEntropyOOD, FlatUnlearning, ForwardKL, SatImp, UnDIAL
from lightning_losses.metrics.membership_scores import dc_pdd_score, first_occurrences, token_frequencies
from tests.golden.adapter import Params, gradients, leaf

Tensors = dict[str, Tensor]


def token_logps(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probabilities of the labels one on, and which of them count."""
    target = labels[:, 1:]
    kept = target != -100
    own = target.masked_fill(~kept, 0).unsqueeze(-1)
    return logits[:, :-1].log_softmax(-1).gather(-1, own).squeeze(-1), kept


def unlearning(given: Tensors, params: dict[str, Any]) -> Tensors:
    """Which loss a case is of, its parameters tell."""
    policy, labels = leaf(given["policy_logits"]), given["labels"]
    logps, kept = token_logps(policy, labels)
    with Params(params) as read:
        if "strength" in params:
            # The code averages over every position, and takes those without a label for class 0.
            target = labels[:, 1:].clamp(min=0)
            value = UnDIAL(read.take("strength"))(policy[:, :-1], given["ref_logits"][:, :-1], target)
        elif "beta1" in params:
            value = SatImp(read.take("beta1"), read.take("beta2"))(logps, kept)
        elif "formula" in params:
            read.take("formula")
            value = NPO(read.take("beta"))(logps, token_logps(given["ref_logits"], labels)[0], kept)
        elif "beta" in params:
            value = WGA(read.take("beta"))(logps, kept)
        else:
            value = ForwardKL(temperature=1.0)(policy, given["ref_logits"])
    return {"loss": value, **gradients(value, policy_logits=policy)}


def flat_unlearning(given: Tensors, params: dict[str, Any]) -> Tensors:
    divergences = {
        "KL": "kl",
        "Jenson-Shannon": "js",
        "Pearson": "pearson",
        "Total-Variation": "total_variation",
        "Jeffrey": "jeffreys",
    }
    with Params(params) as read:
        loss = FlatUnlearning(read.choice("divergence", divergences), count_ignored=True)
    forget, template = leaf(given["forget_logits"]), leaf(given["template_logits"])
    said, said_kept = token_logps(template, given["template_labels"])
    known, known_kept = token_logps(forget, given["forget_labels"])
    value = loss(said, known, said_kept, known_kept)
    return {
        "loss": value,
        "p_forget": torch.where(known_kept, known.exp(), 0.0).mean(),
        "p_template": torch.where(said_kept, said.exp(), 0.0).mean(),
        **gradients(value, forget_logits=forget, template_logits=template),
    }


def contrastive_entropy_ood(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        loss = ContrastiveEntropyOOD(read.take("log_eps"))
        read.choice("normalise", {False: None})
        read.choice("temperature", {1: None})
    states = leaf(given["z_masked"])
    # A term for each layer.
    value = torch.stack([loss(*layer) for layer in zip(states, given["z_frozen"], strict=True)]).sum()
    return {"loss": value, **gradients(value, z_masked=states)}


def dc_pdd(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        clip = read.take("a")
    tokens, frequencies = given["token_ids"].unsqueeze(0), token_frequencies(given["counts"])
    first = first_occurrences(tokens, torch.ones_like(tokens, dtype=torch.bool))
    return {
        "score": dc_pdd_score(given["token_logprobs"].unsqueeze(0), tokens, frequencies, clip=clip)[0],
        "first_index": first[0].nonzero()[:, 0],
        "freq": frequencies,
    }


ADAPTERS = {
    "dc_pdd": dc_pdd,
    "unlearning": unlearning,
    "flat_unlearning": flat_unlearning,
    "contrastive_entropy_ood": contrastive_entropy_ood,
}
