import pytest
import torch
from torch import nn

from lightning_losses import CrossEntropy, Objective, Term
from lightning_losses.modules.manifold_mixup_classifier import ManifoldMixupClassifier

INPUTS, TARGET = torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 2])


def module(layers, network=None, **options):
    term = Term(CrossEntropy(), inputs={"logits": "mixup_logits", "target": "mixup_target"})
    network = network or nn.Sequential(nn.Identity(), nn.Identity())
    return ManifoldMixupClassifier(layers, network=network, objective=Objective({"ce": term}), num_classes=3, **options)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_mixed_at_a_layer_is_mixed_as_its_target(place, monkeypatch):
    """Of the identity, whatever the layer: the mixture of one-hot inputs is that of one-hot targets."""
    torch.manual_seed(0)
    mixed = module(["0", "1"], mixup_count=2)
    monkeypatch.setattr(mixed, "_drawn", lambda: [None, "network.0", "network.1"][place])
    logits, target = mixed.mixtures(INPUTS, torch.tensor([0, -100, 2]), 3)
    assert logits.shape == (6, 3)
    kept = [0, 2, 3, 5]
    torch.testing.assert_close(logits[kept], target[kept])
    assert bool((target[[1, 4]] == 0).all())
    assert not mixed.network[0]._forward_hooks and not mixed.network[1]._forward_hooks


def test_the_rest_of_the_network_sees_the_mixture():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    mixed = module(["1"], network)
    logits, target = mixed._mixed_at("network.1", INPUTS, TARGET, 3)
    expected = network[2](target @ network[1](network[0](INPUTS)))
    torch.testing.assert_close(logits, expected)


def test_every_layer_is_drawn_and_a_step_trains():
    torch.manual_seed(0)
    mixed = module(["0", "2"], nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).double())
    assert {mixed._drawn() for _ in range(40)} == {None, "network.0", "network.2"}
    mixed.training_step({"inputs": INPUTS, "target": TARGET}, 0)["loss"].backward()
    assert all(parameter.grad is not None for parameter in mixed.network.parameters())


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ("3", "manifold_layers names 'network.3', and there is no such layer; give names as named_modules() has them."),
        ("0", "the layer 'network.0' gives an output of shape [3]; name one in manifold_layers that gives one tensor "
         "with a row for each sample."),
    ],
)  # fmt: skip
def test_layers_that_can_not_be_mixed_are_told(layer, told):
    mixed = module([layer], nn.Sequential(nn.Flatten(0)))
    with pytest.raises(ValueError) as error:
        mixed._mixed_at(f"network.{layer}", INPUTS[:, :1], torch.tensor([0, 1, 2, 0]), 3)
    assert str(error.value) == f"ManifoldMixupClassifier: {told}"
