"""Tapping layers by name."""

import copy

import pytest
import torch
from torch import nn

from lightning_losses.features import FeatureTap, penultimate_stage, pooled


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_tap_keeps_the_latest_output_and_its_gradient():
    net = network()
    tap = FeatureTap(net, ["0", "1"])
    net(torch.randn(2, 1, 8, 8))
    logits = net(torch.randn(3, 1, 8, 8))
    assert tap.features["1"].shape == (3, 4, 6, 6)
    assert torch.equal(tap.features["1"], tap.features["0"].relu())
    (gradient,) = torch.autograd.grad(logits.sum(), tap.features["1"])
    assert gradient.abs().sum() > 0


def test_closed_tap_leaves_no_hooks():
    net = network()
    with FeatureTap(net, ["0"]) as tap:
        net(torch.zeros(1, 1, 8, 8))
    tap.features.clear()
    net(torch.zeros(1, 1, 8, 8))
    assert not tap.features
    assert not net[0]._forward_hooks


def test_tapped_network_can_be_copied():
    net = network()
    FeatureTap(net, ["0"])
    assert copy.deepcopy(net)(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


def test_unknown_layer_lists_those_there_are():
    with pytest.raises(ValueError, match=r"\['9'\] came.*its layers are 0, 1, 2, 3"):
        FeatureTap(network(), ["9"])


def test_pooling_of_maps_tokens_and_vectors():
    assert pooled(torch.ones(2, 3, 4, 4)).tolist() == [[1.0] * 3] * 2
    assert pooled(torch.ones(2, 5, 3)).shape == (2, 3)
    assert pooled(torch.ones(2, 3)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"shape \[2\]"):
        pooled(torch.ones(2))


def test_penultimate_stage_of_timm_networks_and_of_unknown_ones():
    import timm

    resnet = timm.create_model("test_resnet", num_classes=3)
    assert penultimate_stage(resnet) == "layer3"
    with pytest.raises(ValueError, match="Linear does not tell its stages"):
        penultimate_stage(nn.Linear(2, 2))
