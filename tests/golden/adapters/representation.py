"""Losses and samplers of representations: energies of concepts, old and new classes."""

from typing import Any

import torch
from torch import Tensor

from lightning_losses.diagnostics.linear_heads import class_moments, gaussian_nb_head, merged_moments
from lightning_losses.losses import EnergyNLL, SoftEntropyRegularization
from lightning_losses.losses.classification.energy_nll import ecbm
from lightning_losses.losses.regularization.soft_entropy_regularization import entropy_gaps
from lightning_losses.networks.gradient_modulation import AdaptiveGradientModulation
from lightning_losses.numerics.probabilities import log_probabilities
from lightning_losses.samplers import hardness_probabilities, mean_similarity
from tests.golden.adapter import Adapter, Params, gradients, leaf

Tensors = dict[str, Tensor]


def energies(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params):
        label, concept = leaf(given["energy_label"]), leaf(given["energy_concept"])
    of_label = EnergyNLL()(label, given["y"])
    weights = {"class_weight": 0.0, "concept_class_weight": 0.0}
    of_concepts = ecbm(label, concept, label, given["y"], given["c"], **weights)
    return {
        "label_loss": of_label,
        "concept_loss": of_concepts,
        **gradients(of_label, label=label),
        **gradients(of_concepts, concept=concept),
    }


def soft_entropy(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        old, new = read.take("num_old"), read.take("num_new")
        temperature, weights = read.take("temperature"), read.take("weights")
    loss = SoftEntropyRegularization(old, temperature, *weights)
    both = leaf(given["student_out"])
    assert both.shape[1] == old + new
    value = loss(*both.chunk(2))
    gaps = entropy_gaps(log_probabilities(both, temperature), old)
    (grad,) = gradients(value, both=both).values()
    return {"old_new": gaps.groups, "old_in": gaps.old, "new_in": gaps.new, "loss": value, "grad": grad}


def hardness(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        chances = hardness_probabilities(given["prototypes"], read.take("hardness_temp"))
    return {"mean_similarity": mean_similarity(given["prototypes"]), "prob": chances}


def naive_bayes(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        epsilon = read.take("var_epsilon")
        read.choice("variance", {"population, per class, pooled at prediction with the class priors": None})
    classes = int(given["y_first"].max()) + 1
    moments = merged_moments(*(class_moments(given[f"X_{p}"], given[f"y_{p}"], classes) for p in ("first", "second")))
    priors = moments.samples / moments.samples.sum()
    variances = moments.deviation / moments.samples.unsqueeze(1) + epsilon
    logits, pooled = gaussian_nb_head(moments, epsilon=epsilon).logits(given["X_test"]), priors @ variances
    # The likelihood of each class without its prior needs what all classes share, too: the density about the centre.
    shared = ((given["X_test"] - priors @ moments.mean).square() / pooled + (2 * torch.pi * pooled).log()).sum(dim=1)
    return {
        "means": moments.mean,
        "class_vars": variances,
        "priors": priors,
        "log_likelihood_test": logits - priors.log() - shared.unsqueeze(1) / 2,
        "pred_test": logits.argmax(dim=1),
    }


def modulation(given: Tensors, params: dict[str, Any]) -> Tensors:
    with Params(params) as read:
        modulation = AdaptiveGradientModulation(read.take("alpha")).double()
        modulation.updates.fill_(read.take("iteration") - 1)
    before = torch.stack([given["running_a"], given["running_v"]])
    modulation.running_scores.copy_(before)
    first, second = given["logits_a"], given["logits_v"]
    coefficients = modulation.coefficients(first, second, given["y"])
    after = modulation.running_scores
    # The mean over three steps tells the third score.
    scores = before + 3 * (after - before)
    return {
        **{"score_a": scores[0], "score_v": scores[1], "coeff_a": coefficients[0], "coeff_v": coefficients[1]},
        **{"running_a_after": after[0], "running_v_after": after[1]},
    }


ADAPTERS: dict[str, Adapter] = {
    "ecbm": energies,
    "soft_entropy_regularization": soft_entropy,
    "hardness_aware_prototype_sampling": hardness,
    "gaussian_nb_head": naive_bayes,
    "adaptive_gradient_modulation": modulation,
}
