"""One call taps student and teacher, in any LightningModule."""

import lightning as L
import pytest
import torch
from torch import nn

import lightning_losses
from lightning_losses import CKA, CRD, RKD, AttentionTransfer, CrossEntropy, DistillationMixin, FitNetHint, Objective

TERMS = {"fitnet": FitNetHint, "at": AttentionTransfer, "rkd": RKD, "crd": CRD, "cka": CKA}


def network(channels):
    torch.manual_seed(channels)
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3),
    )  # fmt: skip


class Student(DistillationMixin, L.LightningModule):
    def __init__(self, terms=("rkd", "at"), name="network", **tapped):
        super().__init__()
        setattr(self, name, network(2))
        self.teacher = network(4)
        self.student = getattr(self, name)
        self.objective = Objective({"ce": CrossEntropy(), **{term: TERMS[term]() for term in terms}})
        self.tap(**tapped)

    def training_step(self, batch, batch_idx):
        return self.apply_objective(inputs=batch[0], logits=self.student(batch[0]), target=batch[1])


def batch():
    return torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(7)), torch.arange(6) % 3


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize(("name", "layer"), [("network", "2"), ("backbone", "backbone.2"), ("network", "network.2")])
def test_a_loss_of_features_is_fed_with_both_networks_layers(term, name, layer):
    module, (inputs, target) = Student([term], name, student=layer, teacher="0"), batch()
    torch.manual_seed(0)
    found = module.training_step((inputs, target), 0)["loss"]
    maps, teacher_maps = module.student[:3](inputs), module.teacher[:1](inputs).detach()
    step = {"feature_maps": maps, "teacher_feature_maps": teacher_maps, "logits": module.student(inputs)}
    step |= {"features": maps.mean(dim=(2, 3)), "teacher_features": teacher_maps.mean(dim=(2, 3)), "target": target}
    torch.testing.assert_close(found, module.objective(**step).total)
    found.backward()
    assert module.student[2].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in module.teacher.parameters())


def test_several_layers_are_mappings_in_order():
    module, (inputs, target) = Student(["at"], student=["0", "2"], teacher=["1", "2"]), batch()
    found = module.training_step((inputs, target), 0)["loss"]
    wanted = CrossEntropy()(module.network(inputs), target)
    for own, others in ((1, 2), (3, 3)):
        wanted = wanted + AttentionTransfer()(module.network[:own](inputs), module.teacher[:others](inputs))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("tapped", "said"),
    [
        (
            {"student": "layer3", "teacher": "0"},
            r"Student.tap: student: \['layer3'\] came.*its layers are 0, 1, 2, 3, 4",
        ),
        ({"student": "0", "teacher": "layer3"}, r"Student: teacher_layer: \['layer3'\] came.*its layers are 0, 1, 2"),
        ({"student": "0"}, r"Student: teacher_layer: Sequential has no feature_info.*from 0, 1, 2, 3, 4, 5\.$"),
        ({"teacher": "0"}, r"Student.tap: student: Sequential has no feature_info that lists its stages"),
    ],
)
def test_layers_that_are_not_there_are_named_with_those_that_are(tapped, said):
    with pytest.raises(ValueError, match=said):
        Student(**tapped)


def test_example_inputs_give_losses_their_shapes_before_training():
    inputs, _ = batch()
    module = Student(["fitnet", "crd"], student="2", teacher="0", example_inputs=inputs)
    assert not module.objective.lazy and module.training and module.network.training
    assert module.objective.terms["fitnet"].loss.regressor is not None
    assert Student(["fitnet"], student="2", teacher="0").objective.lazy


def test_what_wraps_a_layers_output_is_left_out():
    class Block(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs), "attention"

    layer = Block(3, 2)
    with lightning_losses.FeatureTap(layer, [""]) as tap:
        output = layer(torch.ones(4, 3))
    assert torch.equal(tap.features[""], output[0])


def test_a_second_tap_takes_the_place_of_the_first():
    module = Student(["rkd"], student="0", teacher="0")
    module.tap(student="2", teacher="0")
    assert [len(part._forward_hooks) for part in (module.network[0], module.network[2])] == [0, 1]


def test_example_inputs_leave_every_part_in_its_mode():
    module = Student(["fitnet"], student="2", teacher="0")
    module.network[1].eval()
    modes = [part.training for part in module.modules()]
    with pytest.raises(RuntimeError):
        module.materialize_objective(module.network, torch.zeros(2, 7))
    module.materialize_objective(module.network, batch()[0])
    assert [part.training for part in module.modules()] == modes


def test_a_layer_in_place_does_not_change_the_one_before_it():
    module, (inputs, target) = Student(["at"], student="0", teacher="0"), batch()
    wanted = AttentionTransfer()(module.network[0](inputs), module.teacher[0](inputs))
    for part in (module.network, module.teacher):
        part[1].inplace = True
    parts = module.training_step((inputs, target), 0)
    torch.testing.assert_close(parts["loss"] - CrossEntropy()(module.network(inputs), target), wanted)
