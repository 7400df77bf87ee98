"""Decoding, and distillation of what was decoded."""

import torch

from lightning_losses.decoding.datastore import Datastore, mix_with_neighbours
from lightning_losses.decoding.mirostat import power_law_exponent, surprise_count
from lightning_losses.losses import GeneralizedJSD
from tests.golden.adapter import Params, gradients, leaf


def mirostat(inputs, params):
    with Params(params) as given:
        candidates, size = given.take("m"), given.take("n")
        maximum, exponents = (torch.tensor(given.take(name)).double() for name in ("mu", "s_list"))
    ratios = -inputs["sorted_probs"][: candidates + 1].log2()
    grid = exponents.unsqueeze(1).expand(-1, len(maximum)), maximum.expand(len(exponents), -1)
    return {"s_hat": power_law_exponent(ratios), "k": surprise_count(*grid, size).flatten()}


def knn_lm(inputs, params):
    with Params(params) as given:
        given.choice("distance", {"squared L2": None})
        k, weight, temperature = given.take("k"), given.take("lmbda"), given.take("temperature")
    found = Datastore(inputs["keys"], inputs["values"]).log_probabilities(
        inputs["queries"], inputs["lm_probs"].shape[-1], k=k, temperature=temperature
    )
    mixed = mix_with_neighbours(inputs["lm_probs"].log(), found, weight)
    return {"knn_probs": found.exp(), "mixed_probs": mixed.exp()}


def gkd(inputs, params):
    with Params(params) as given:
        loss = GeneralizedJSD(given.take("beta"), given.take("temperature"))
        given.take("reduction")
    student = leaf(inputs["student_logits"])
    value = loss(student, inputs["teacher_logits"], inputs["labels"])
    return {"loss": value, **gradients(value, student=student)}


ADAPTERS = {"mirostat": mirostat, "knn_lm": knn_lm, "gkd_generalized_jsd": gkd}
