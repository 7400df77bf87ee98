import pytest
import torch
from torch import nn

from lightning_losses import Objective, RDrop
from lightning_losses.modules.second_pass_classifier import SecondPassClassifier


def test_the_second_pass_has_other_dropout_and_evaluation_has_none():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3))
    module = SecondPassClassifier(network, Objective({"rdrop": RDrop()}), num_classes=3)
    batch = {"inputs": torch.randn(4, 8), "target": torch.tensor([0, 1, 2, 0])}
    step = module.training_step(batch, 0)
    assert step["loss"] > 0
    step["loss"].backward()
    assert network[1].weight.grad.abs().sum() > 0
    assert module.eval().training_step(batch, 0)["loss"] == 0
    with pytest.raises(ValueError) as error:
        module.train().apply_objective(logits=torch.zeros(2, 3))
    told = "a second pass needs 'inputs'; the step offered 'logits'."
    assert str(error.value) == f"SecondPassClassifier: {told}"
