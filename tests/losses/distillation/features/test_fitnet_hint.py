import pytest
import torch
from torch import nn

from lightning_losses import CrossEntropy, Objective
from lightning_losses.losses import FitNetHint
from lightning_losses.losses.distillation.features.regressors import regression_kernel
from lightning_losses.modules import Distiller


def maps(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_identity_gives_the_mean_squared_difference():
    student, teacher = maps(2, 3, 4, 4), maps(2, 3, 4, 4)
    torch.testing.assert_close(FitNetHint(nn.Identity())(student, teacher), nn.functional.mse_loss(student, teacher))
    assert FitNetHint(nn.Identity())(student, student).item() == 0


@pytest.mark.parametrize(
    "student, teacher, layer",
    [
        ((2, 3, 8, 8), (2, 5, 4, 4), nn.Conv2d(3, 5, 3, stride=2, padding=1)),
        ((2, 3, 4, 4), (2, 5, 8, 8), nn.ConvTranspose2d(3, 5, 4, stride=2, padding=1)),
        ((2, 3, 4, 4), (2, 5, 4, 4), nn.Conv2d(3, 5, 1)),
        ((2, 3, 7, 6), (2, 5, 5, 5), nn.Conv2d(3, 5, (3, 2))),
    ],
    ids=["halved", "doubled", "same", "cut"],
)
def test_the_regressor_fits_the_shapes(student, teacher, layer):
    student, teacher = maps(*student), maps(*teacher)
    loss = FitNetHint().double()
    value = loss(student, teacher)
    layer = layer.double()
    layer.load_state_dict({"weight": loss.regressor.weight, "bias": loss.regressor.bias})
    expected = nn.functional.relu(nn.BatchNorm2d(teacher.shape[1]).double()(layer(student)))
    torch.testing.assert_close(value, nn.functional.mse_loss(expected, teacher))


@pytest.mark.parametrize("shape", [(4,), (4, 7)])
def test_vectors_and_tokens_get_a_linear_layer(shape):
    student, teacher = maps(*shape, 3), maps(*shape, 5)
    loss = FitNetHint().double()
    value = loss(student, teacher)
    expected = student @ loss.regressor.weight.mT + loss.regressor.bias
    torch.testing.assert_close(value, nn.functional.mse_loss(expected, teacher))
    fresh = FitNetHint().double()
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh(student, teacher), value)


@pytest.mark.parametrize(
    "student, teacher",
    [
        ((2, 3, 4, 4), (2, 3, 5, 5)),
        ((2, 3), (2, 3, 4, 4)),
        ((2, 3), (3, 3)),
        ((2, 6, 3), (2, 7, 3)),
        ((3,), (3,)),
        ((), (2, 3)),
    ],
)
def test_shapes_that_no_regressor_connects_are_refused(student, teacher):
    with pytest.raises(ValueError, match="^fitnet_hint: feature_maps of"):
        FitNetHint()(torch.zeros(student), torch.zeros(teacher))
    with pytest.raises(ValueError, match="^fitnet_hint: feature_maps of"):
        regression_kernel(torch.Size(student), torch.Size(teacher))


def test_the_regressor_is_in_the_optimizer_and_in_the_checkpoint():
    def network(channels):
        layers = nn.Sequential(
            nn.Conv2d(1, channels, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)
        )
        layers.feature_info = [{"module": "0"}, {"module": "1"}]
        return layers

    inputs = torch.randn(4, 1, 6, 6)
    loss = FitNetHint()
    module = Distiller(
        network(5),
        network=network(2),
        objective=Objective({"ce": CrossEntropy(), "hint": loss}),
        num_classes=3,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        example_inputs=inputs,
    )
    # The example leaves no trace in the running statistics.
    assert loss.regressor.norm.num_batches_tracked.item() == 0
    optimizer = module.configure_optimizers()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in loss.parameters()} <= held
    assert "objective.terms.hint.loss.regressor.weight" in module.state_dict()
    before = loss.regressor.weight.detach().clone()
    module.training_step({"inputs": inputs, "target": torch.tensor([0, 1, 2, 0])}, 0)["loss"].backward()
    optimizer.step()
    assert not torch.equal(before, loss.regressor.weight)
    assert all(parameter.grad is None for parameter in module.teacher.parameters())


def test_layers_come_by_mappings_and_have_a_regressor_each():
    torch.manual_seed(0)
    student = {"a": torch.randn(4, 3, 8, 8), "b": torch.randn(4, 6)}
    teacher = {"x": torch.randn(4, 5, 4, 4), "y": torch.randn(4, 2)}
    loss = FitNetHint(layers=2)
    value = loss(student, teacher)
    each = [r(s, t) for r, s, t in zip(loss.regressor, student.values(), teacher.values(), strict=True)]
    expected = sum((found - wanted).square().mean() for found, wanted in zip(each, teacher.values(), strict=True))
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        FitNetHint(nn.Identity())({"a": student["a"]}, {"x": 2 * student["a"]}),
        FitNetHint(nn.Identity())(student["a"], 2 * student["a"]),
    )
    other = FitNetHint(layers=2)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(student, teacher), value)
    with pytest.raises(ValueError, match="^fitnet_hint: 2 layers came for layers=1"):
        FitNetHint()(student, teacher)
    with pytest.raises(ValueError, match="^fitnet_hint: 2 feature_maps came with 1 teacher_feature_maps"):
        loss(student, teacher["x"])
    with pytest.raises(ValueError, match="^fitnet_hint: layers=2 came with one regressor"):
        FitNetHint(nn.Identity(), layers=2)
