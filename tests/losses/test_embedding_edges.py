"""Losses of embeddings at the edges of batches, at a temperature of 0.01, in half precision: as in float64."""

import re

import pytest
import torch

from lightning_losses import losses
from tests.losses.examples import build, floating, takes, tensors, with_gradients

NAMES = [
    *("nt_xent", "supcon", "clip_contrastive", "sigmoid_contrastive", "hard_contrastive", "amcl", "triplet", "tcm"),
    *("proto_triplet", "arcface", "cosface", "madacos", "normalized_softmax", "unpg", "hyp_ce", "hyp_pc", "mw_loss"),
]
LOSSES = [loss for loss in losses.loss_classes() if loss.identifier() in NAMES]
# Where cosines are divided by a temperature, and where they are multiplied by a scale.
SHARP = {"temperature": 0.01, "most_temperature": 0.01, "scale": 100.0}


def duplicates(values):
    return {name: rows[:1].expand_as(rows).clone() for name, rows in floating(values).items()}


def opposites(values):
    """Vectors along one axis, and cosines of 1 and -1."""
    changed = {name: rows.sign() for name, rows in floating(values).items()}
    for name in changed.keys() - {"logits"}:
        changed[name][:, 1:] = 0
    return changed


def zeros(values):
    return {name: torch.cat([torch.zeros_like(rows[:2]), rows[2:]]) for name, rows in floating(values).items()}


EDGES = {
    "batch of one": (1, lambda values: {}),
    "a class of one": (6, lambda values: {"target": torch.tensor([0, 0, 1, 1, 1, 2])}),
    "no positives": (3, lambda values: {"target": torch.arange(3)}),
    "one class": (6, lambda values: {"target": torch.zeros(6, dtype=torch.long)}),
    "duplicates": (6, duplicates),
    "cosines of 1 and -1": (6, opposites),
    "zero vectors": (6, zeros),
}


TOLERANCES = {torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.identifier())
def test_at_the_edges_it_is_that_of_float64(loss):
    sharp = {option: value for option, value in SHARP.items() if takes(loss, option)}
    tried = 0
    for batch, change in EDGES.values():
        values = tensors(loss, batch=batch)
        changed = change(values)
        if not changed.keys() <= values.keys():
            continue
        for dtype, tolerance in TOLERANCES.items():
            rounded = {**values, **changed}
            rounded.update({name: rows.to(dtype) for name, rows in floating(rounded).items()})
            exact = {**rounded, **{name: rows.double() for name, rows in floating(rounded).items()}}
            value, gradients = with_gradients(build(loss, **sharp).float(), rounded)
            expected, slopes = with_gradients(build(loss, **sharp), exact)
            torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5)
            for name, slope in slopes.items():
                atol = tolerance * max(float(slope.abs().max()), 1e-3)
                torch.testing.assert_close(gradients[name].double(), slope, rtol=0.0, atol=atol)
            tried += 1
    assert tried >= 2 * (len(EDGES) - 3)


def test_each_of_these_losses_is_here():
    assert sorted(loss.identifier() for loss in LOSSES) == sorted(NAMES)


POWERS = {"vicreg": 4, "icnn": 2, "energy_confusion": 2, "proto_triplet": 2, "sae_auxk": 2}
POWERS |= {"cs_information_bottleneck": 2, "mmd": 2}


@pytest.mark.parametrize("loss", [loss for loss in losses.loss_classes() if loss.identifier() in POWERS])
def test_vectors_are_refused_where_their_powers_are_no_numbers(loss):
    power, values = POWERS[loss.identifier()], tensors(loss, batch=6)
    # MMD takes distances of float32 in float64.
    dtype = torch.float64 if loss.identifier() == "mmd" else torch.float32
    largest = torch.finfo(dtype).max
    made = build(loss).to(dtype)

    def of_size(size):
        scaled = {name: (rows / rows.abs().max() * size).to(dtype) for name, rows in floating(values).items()}
        return with_gradients(made, {**values, **scaled})

    value, gradients = of_size((largest / 2**17) ** (1 / power))
    assert value.isfinite() and all(gradient.isfinite().all() for gradient in gradients.values())
    powers = {2: "squares", 4: "fourth powers"}[power]
    told = rf"{loss.identifier()}: \w+ holds \S+; give numbers up to \S+ in size, whose {powers} {dtype} can hold\."
    for size in (1e-8 * largest, 0.9 * largest):
        with pytest.raises(ValueError, match=re.compile(f"^{told}$")):
            of_size(size)
