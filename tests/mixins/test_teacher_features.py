"""The teacher's features reach a loss that takes them."""

import pytest
import torch
from torch import nn

from lightning_losses import RKD, AttentionTransfer, CrossEntropy, Objective
from lightning_losses.modules import Distiller


def network(channels):
    layers = nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 3),
    )
    layers.feature_info = [{"module": "0"}, {"module": "1"}]
    return layers


def batch():
    return {"inputs": torch.randn(4, 1, 5, 5), "target": torch.tensor([0, 1, 2, 0])}


@pytest.mark.parametrize("layer, index", [(None, 0), ("1", 1)])
def test_features_are_those_of_the_layer(layer, index):
    student, teacher = network(2), network(3)
    objective = Objective({"ce": CrossEntropy(), "rkd": RKD(), "at": AttentionTransfer()})
    module = Distiller(
        teacher, teacher_layer=layer, network=student, objective=objective, num_classes=3, feature_layer=layer
    )
    step = batch()
    loss = module.training_step(step, 0)["loss"]
    maps = [net[: index + 1](step["inputs"]) for net in (student, teacher)]
    pooled = [m.mean(dim=(2, 3)) for m in maps]
    expected = CrossEntropy()(student(step["inputs"]), step["target"]) + RKD()(*pooled) + AttentionTransfer()(*maps)
    torch.testing.assert_close(loss, expected)


def test_the_teacher_keeps_no_hooks_and_gets_no_gradient():
    teacher = network(3)
    objective = Objective({"rkd": RKD()})
    module = Distiller(teacher, network=network(2), objective=objective, num_classes=3)
    module.training_step(batch(), 0)["loss"].backward()
    assert all(not layer._forward_hooks for layer in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert module.network[0].weight.grad is not None
