"""Classes without samples, in the batch or in the data, one class alone, no positives: all stays finite."""

from typing import get_args, get_type_hints

import pytest
import torch

from lightning_losses.losses import AnyLoss, loss_classes
from lightning_losses.metrics import NegativeLogLikelihood
from tests.each import each
from tests.losses.examples import BATCH, CLASSES, build, counts, takes, tensors, with_gradients

CERTAIN = 1e3


def of_classes(*classes):
    """Targets of these classes alone, as indices and as labels."""

    def change(values):
        chosen = torch.tensor(classes).repeat(BATCH)[:BATCH]
        if "target" in values:
            values["target"] = chosen
        if "multi_hot" in values:
            values["multi_hot"] = torch.nn.functional.one_hot(chosen, CLASSES).to(values["multi_hot"])

    return change


def all_labels(label):
    """The same label in every class of every sample."""

    def change(values):
        if "multi_hot" in values:
            values["multi_hot"] = torch.full_like(values["multi_hot"], label)

    return change


def certain(right):
    """One class, of which the network is certain, rightly or wrongly."""

    def change(values):
        of_classes(1)(values)
        if "logits" in values:
            values["logits"] = torch.zeros_like(values["logits"])
            values["logits"][:, 1 if right else 0] = CERTAIN

    return change


LOPSIDED = {
    "a class absent": of_classes(0, 1, 2, 4),
    "one class": of_classes(2),
    "no positives": all_labels(0),
    "no negatives": all_labels(1),
    "certain and right": certain(True),
    "certain and wrong": certain(False),
}
LABELLED = [loss for loss in loss_classes() if {"target", "multi_hot"} & loss.inputs().keys()]


@pytest.mark.parametrize("loss", LABELLED, ids=lambda loss: loss.identifier())
@each("case", LOPSIDED)
def test_values_and_gradients_are_finite(loss, case):
    values = tensors(loss)
    LOPSIDED[case](values)
    value, gradients = with_gradients(build(loss), values)
    assert bool(value.isfinite().all()), value
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())


@pytest.mark.parametrize(
    "loss", [loss for loss in LABELLED if takes(loss, "class_counts")], ids=lambda x: x.identifier()
)
@each("smoothing", ["clamp", "add_one"])
def test_a_class_that_the_training_data_lack_is_finite_as_target_and_as_prediction(loss, smoothing):
    given = counts(CLASSES)
    options = {"class_counts": [0.0, *given["class_counts"][1:]]}
    if takes(loss, "co_occurrence"):
        options["co_occurrence"] = [
            [a * bool(row and column) for column, a in enumerate(line)]
            for row, line in enumerate(given["co_occurrence"])
        ]
    if takes(loss, "smoothing"):
        options["smoothing"] = smoothing
    values = tensors(loss)
    of_classes(0, 1)(values)
    value, gradients = with_gradients(build(loss, **options), values)
    assert bool(value.isfinite().all()), value
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())


@pytest.mark.parametrize("metric", get_args(get_type_hints(AnyLoss)["metric"]))
@each("case", LOPSIDED)
@each("classes", [2, CLASSES])
def test_every_metric_as_a_loss_is_finite(metric, case, classes):
    values = tensors(AnyLoss, classes=classes)
    LOPSIDED[case](values)
    values["target"] = values["target"].clamp(max=classes - 1)
    values["logits"] = values["logits"][:, :classes]
    value, gradients = with_gradients(AnyLoss(metric=metric).double(), values)
    assert 0 <= value <= 1 and bool(gradients["logits"].isfinite().all())


@pytest.mark.parametrize(
    "loss", [loss for loss in loss_classes() if "regression_target" in loss.inputs()], ids=lambda x: x.identifier()
)
def test_numbers_that_are_all_alike_and_met_exactly_are_finite(loss):
    values = tensors(loss)
    for name in ("regression_target", "mean", "quantiles", "ensemble"):
        if name in values:
            values[name] = torch.zeros_like(values[name])
    value, gradients = with_gradients(build(loss), values)
    assert bool(value.isfinite().all()), value
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_a_target_of_probability_0_has_a_finite_likelihood(task):
    probabilities = {"multiclass": [[1.0, 0.0]], "binary": [0.0], "multilabel": [[0.0, 1.0]]}[task]
    target = {"multiclass": [1], "binary": [1], "multilabel": [[1, 0]]}[task]
    metric = NegativeLogLikelihood(inputs="probabilities", task=task)
    metric.update(torch.tensor(probabilities), torch.tensor(target))
    assert metric.compute().item() == pytest.approx(27.631 * (2 if task == "multilabel" else 1), abs=1e-3)
