"""At high temperatures, where τ² would multiply rounding, values in float32 are those of float64."""

import pytest
import torch

from lightning_losses import losses
from lightning_losses.kernels.linear_distillation import linear_distillation
from lightning_losses.losses import loss_classes
from lightning_losses.losses.kinds import TaughtLoss
from lightning_losses.numerics.settings import settings

SQUARED = [
    loss
    for loss in loss_classes()
    if issubclass(loss, TaughtLoss)
    and "temperature" in {setting.name for setting in settings(loss)}
    and not any(setting.required for setting in settings(loss))
]


def scores(*shape, seed):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", SQUARED, ids=lambda loss: loss.identifier())
def test_the_value_and_the_gradient_are_those_of_float64(loss):
    squared = {"tau_squared": True} if "tau_squared" in {setting.name for setting in settings(loss)} else {}
    soft = {"kind": "soft"} if loss is losses.DeiTDistill else {}
    chosen = loss(temperature=1e4, **squared, **soft)
    given = {"logits": scores(8, 20, seed=0), "teacher_logits": scores(8, 20, seed=1)}
    if loss.inputs().get("target"):
        given["target"] = torch.arange(8)
    if loss.inputs().get("ratio"):
        given["ratio"] = torch.linspace(0.1, 0.9, 8)
    if loss.inputs().get("epoch"):
        given["epoch"] = torch.tensor(10)
    outcomes = []
    for dtype in (torch.float32, torch.float64):
        cast = {name: x.to(dtype) if x.is_floating_point() else x for name, x in given.items()}
        cast["logits"].requires_grad_()
        value = chosen(**cast)
        assert value.dtype == dtype
        outcomes.append([value.detach().double(), torch.autograd.grad(value, cast["logits"])[0].double()])
    for single, double in zip(*outcomes, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-7)


def test_the_fused_head_has_them_too():
    hidden, weight, taught, head = (scores(*s, seed=i) for i, s in enumerate([(6, 4), (20, 4), (6, 4), (20, 4)]))
    loss = losses.KD(temperature=1e4)
    value = linear_distillation(hidden, weight, taught, head, torch.zeros(6).long(), objective=loss).loss
    wanted = loss(hidden.double() @ weight.double().t(), taught.double() @ head.double().t())
    assert value.item() == pytest.approx(wanted.item(), rel=1e-4)


def test_a_learned_temperature_is_not_read_from_the_device():
    class Learned(losses.KD):
        temperature = torch.ones((), device="meta")

    # A tensor of this device has no value to read.
    assert not Learned.in_double.fget(Learned)
    assert losses.KD(temperature=65.0).in_double and not losses.KD(temperature=64.0).in_double
