import pytest
import torch
from torch import nn

from lightning_losses.losses import KD, CrossEntropy, TGeoKD
from lightning_losses.losses.distillation.logits.tgeo_kd import (
    FusionController,
    LabelledBatch,
    tgeo_outer_loss,
    tgeo_state,
)

CLASSES = 3


def setting():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    controller = FusionController(CLASSES).double()
    train = LabelledBatch(normal(8, 4), torch.arange(8) % CLASSES)
    held_out = LabelledBatch(normal(7, 4), torch.arange(7) % CLASSES)
    return network, controller, (train, 2 * normal(8, CLASSES), normal(CLASSES, CLASSES).softmax(dim=-1), held_out)


def test_a_constant_ratio_is_a_weighted_total():
    logits, teacher = torch.randn(5, CLASSES), torch.randn(5, CLASSES)
    target = torch.tensor([0, 1, 2, 0, 1])
    expected = 0.3 * KD(temperature=1.5)(logits, teacher) + 0.7 * CrossEntropy()(logits, target)
    torch.testing.assert_close(TGeoKD()(logits, teacher, target, torch.full((5,), 0.3)), expected)


def test_ratios_are_shares_and_a_controller_of_zeros_mixes_alike():
    controller = FusionController(CLASSES)
    ratio = controller(20 * torch.randn(50, 9 * CLASSES))
    assert bool(((ratio > 0) & (ratio < 1)).all())
    for parameter in controller.parameters():
        nn.init.zeros_(parameter)
    assert controller(torch.randn(4, 9 * CLASSES)).tolist() == [0.5] * 4


@pytest.mark.parametrize("name", ["layers.0.weight", "layers.2.bias", "layers.4.weight", "layers.4.bias"])
def test_the_outer_gradient_is_that_of_finite_differences(name):
    network, controller, rest = setting()

    def outer():
        return tgeo_outer_loss(network, controller, *rest, learning_rate=0.5)

    parameter = dict(controller.named_parameters())[name]
    (slope,) = torch.autograd.grad(outer(), parameter)
    assert slope.abs().max() > 1e-6
    flat, step = parameter.data.view(-1), 1e-5
    for place in slope.abs().flatten().topk(min(3, flat.numel())).indices.tolist():
        values = []
        for sign in (1, -1):
            flat[place] += sign * step
            values.append(outer().item())
            flat[place] -= sign * step
        # Central differences: their error falls with the square of the step.
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope.flatten()[place].item(), rel=1e-5, abs=1e-9)


def test_the_controller_learns():
    network, controller, rest = setting()
    optimizer = torch.optim.Adam(controller.parameters(), 0.01)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = tgeo_outer_loss(network, controller, *rest, learning_rate=0.5)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] - 1e-3


def test_without_a_step_it_is_the_held_out_loss_and_nothing_changes():
    network, controller, rest = setting()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    value = tgeo_outer_loss(network, controller, *rest, learning_rate=0.0)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.testing.assert_close(value, CrossEntropy()(network(rest[3].inputs), rest[3].target))


def test_frozen_weights_take_no_step():
    network, controller, (train, teacher_logits, means, held_out) = setting()
    network[0].requires_grad_(False)
    value = tgeo_outer_loss(network, controller, train, teacher_logits, means, held_out, learning_rate=0.5)
    features, held = (network[0](inputs) for inputs in (train.inputs, held_out.inputs))
    rest = nn.Sequential(*network[1:])
    expected = tgeo_outer_loss(
        rest, controller, LabelledBatch(features, train.target), teacher_logits, means,
        LabelledBatch(held, held_out.target), learning_rate=0.5,
    )  # fmt: skip
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_ignored_samples_have_no_part_in_the_step(kept):
    network, controller, (train, teacher, means, held_out) = setting()
    # Statistics of batches are those of all samples, as in the student's own step.
    network[1] = nn.Identity()
    ignoring = LabelledBatch(train.inputs, train.target.clone().index_fill(0, torch.arange(kept, 8), -100))
    found = tgeo_outer_loss(network, controller, ignoring, teacher, means, held_out, learning_rate=0.5)
    some = LabelledBatch(train.inputs[:kept], train.target[:kept])
    wanted = tgeo_outer_loss(network, controller, some, teacher[:kept], means, held_out, learning_rate=0.5)
    torch.testing.assert_close(found, wanted)
    slopes = torch.autograd.grad(found, list(controller.parameters()))
    assert all(bool(slope.isfinite().all()) for slope in slopes)


def test_a_batch_without_a_kept_sample_moves_statistics_alone():
    network, controller, (train, teacher, means, held_out) = setting()
    nothing = LabelledBatch(train.inputs, torch.full_like(train.target, -100))
    value = tgeo_outer_loss(network, controller, nothing, teacher, means, held_out, learning_rate=0.5)
    torch.testing.assert_close(value, CrossEntropy()(network(held_out.inputs), held_out.target))


def test_tensors_that_do_not_fit_are_refused():
    probabilities, target = torch.ones(2, CLASSES) / 3, torch.tensor([0, 1])
    with pytest.raises(ValueError, match="^tgeo_kd: probabilities of shapes"):
        tgeo_state(probabilities, probabilities, target, torch.ones(2, CLASSES))
    with pytest.raises(ValueError, match="^tgeo_kd: a ratio of shape"):
        TGeoKD()(probabilities, probabilities, target, torch.ones(3))
