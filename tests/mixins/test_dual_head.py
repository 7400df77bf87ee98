import copy

import pytest
import torch
from torch import nn

from lightning_losses import BinaryKLNorm, CrossEntropy, Objective, Term
from lightning_losses.mixins.dual_head import auxiliary_classifier
from lightning_losses.modules import Distiller
from lightning_losses.modules.dual_head_distiller import DualHeadDistiller


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def module(ce=1.0, aux=1.0, **options):
    torch.manual_seed(0)
    objective = Objective(
        {
            "ce": Term(CrossEntropy(), ce),
            "aux": Term(BinaryKLNorm(temperature=2.0), aux, inputs={"logits": "auxiliary_logits"}),
        }
    )
    return DualHeadDistiller(teacher=nn.Linear(4, 3), network=network(), objective=objective, num_classes=3, **options)


def batch():
    return {"inputs": torch.randn(6, 4), "target": torch.arange(6) % 3}


def test_the_loss_is_that_of_two_heads():
    student, step = module(), batch()
    feature = student.network[:2](step["inputs"])
    expected = CrossEntropy()(student.network[2](feature), step["target"])
    expected = expected + BinaryKLNorm(2.0)(student.auxiliary_head(feature), student.teacher(step["inputs"]))
    torch.testing.assert_close(student.training_step(step, 0)["loss"], expected)


@pytest.mark.parametrize("ce, aux, idle", [(1.0, 0.0, "auxiliary_head.weight"), (0.0, 1.0, "network.2.weight")])
def test_each_head_learns_from_its_own_loss(ce, aux, idle):
    student = module(ce, aux)
    student.training_step(batch(), 0)["loss"].backward()
    for name, parameter in student.named_parameters():
        if name.endswith("weight"):
            assert bool((parameter.grad == 0).all()) == (name == idle), name


def test_the_second_head_is_saved_and_left_behind():
    student = module()
    inputs = torch.randn(2, 4)
    assert "auxiliary_head.weight" in student.state_dict()
    assert set(student.network.state_dict()) == set(network().state_dict())
    student.auxiliary_head = None
    assert student.eval()(inputs).shape == (2, 3)
    copy.deepcopy(student.network)(inputs)


def test_the_hidden_layer_may_be_chosen():
    student = module(auxiliary="mlp")
    assert isinstance(student.auxiliary_head, nn.Sequential)
    assert torch.isfinite(student.training_step(batch(), 0)["loss"])
    with pytest.raises(ValueError, match="^dual_head: kind='deep'"):
        auxiliary_classifier(4, 3, "deep")
    with pytest.raises(ValueError, match="^dual_head: head='1' came; give one of the linear layers 0, 2"):
        module(head="1")


def test_a_module_without_a_second_head_is_refused():
    class Forgetful(DualHeadDistiller):
        def add_auxiliary_head(self, *arguments):
            pass

    objective = Objective({"aux": Term(BinaryKLNorm(), inputs={"logits": "auxiliary_logits"})})
    options = {"network": network(), "objective": objective, "num_classes": 3, "teacher": nn.Linear(4, 3)}
    with pytest.raises(ValueError, match="^Forgetful: the objective takes 'auxiliary_logits'; call"):
        Forgetful(**options).training_step(batch(), 0)
    with pytest.raises(ValueError, match="needs 'auxiliary_logits'"):
        Distiller(**options).training_step(batch(), 0)
