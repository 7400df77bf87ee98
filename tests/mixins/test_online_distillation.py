"""Two networks that train together."""

import pytest
import torch
from torch import nn

from lightning_losses import KD, CrossEntropy, Objective
from lightning_losses.modules import OnlineDistiller


def pair(objective=None):
    objective = objective or Objective({"kd": KD(2.0)})
    return OnlineDistiller(
        nn.Linear(4, 3), Objective({"kd": KD(2.0)}), network=nn.Linear(4, 3), objective=objective, num_classes=3
    )


def test_each_network_gets_its_own_gradient_alone():
    module = pair()
    inputs, target = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    module.training_step({"inputs": inputs, "target": target}, 0)["loss"].backward()
    with torch.no_grad():
        student_logits, peer_logits = module.network(inputs), module.peer(inputs)
    for network, other in [(module.network, peer_logits), (module.peer, student_logits)]:
        loss = KD(2.0)(network(inputs), other)
        (expected,) = torch.autograd.grad(loss, [network.weight])
        torch.testing.assert_close(network.weight.grad, expected)


def test_both_networks_reach_optimizer_and_checkpoint():
    module = pair(Objective({"ce": CrossEntropy()}))
    assert {"network.weight", "peer.weight"} <= set(module.state_dict())
    assert len(module.configure_optimizers().param_groups[0]["params"]) == 4


def test_missing_inputs_are_one_sentence():
    with pytest.raises(ValueError, match="needs 'inputs' .for the peer. and 'logits'; the step offered 'logits'"):
        pair().apply_objective(logits=torch.zeros(2, 3))
