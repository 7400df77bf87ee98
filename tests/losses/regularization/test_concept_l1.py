import pytest
import torch

from lightning_losses import ConceptL1

LAYERS = {"trunk": torch.tensor([[1.0, -2.0]]), "concepts": torch.tensor([[1.0, -1.0], [0.0, 3.0]])}


def test_it_is_the_sum_of_absolute_weights():
    assert ConceptL1(coefficient=2.0)(LAYERS) == 2 * (3 + 5)
    assert ConceptL1(coefficient=2.0, layer="concepts")(LAYERS) == 2 * 5
    assert ConceptL1(coefficient=2.0, layer="concepts", per_concept=True)(LAYERS) == 5


def test_small_weights_reach_0():
    weight = torch.tensor([0.05, -1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(ConceptL1(coefficient=0.1)(weight), weight)
    assert torch.equal(gradient, torch.tensor([0.1, -0.1]))


@pytest.mark.parametrize(
    ("weights", "layer", "sentence"),
    [
        (LAYERS, "head", "concept_l1: those of trunk, concepts came; give those of the layer head."),
        ({}, None, "concept_l1: no weights came; give those of at least one layer."),
    ],
    ids=["another layer", "none"],
)
def test_weights_that_are_not_there_are_refused(weights, layer, sentence):
    with pytest.raises(ValueError) as refusal:
        ConceptL1(layer=layer)(weights)
    assert str(refusal.value) == sentence
