"""Every loss on a GPU: the value and the gradients of the CPU, and no step that waits for the device."""

import pytest
import torch
from torch.utils._pytree import tree_map

from lightning_losses.losses import loss_classes
from tests.losses.examples import build, floating, tensors, trained, with_gradients

pytestmark = pytest.mark.cuda
EVERY = pytest.mark.parametrize("loss", loss_classes(), ids=lambda loss: loss.identifier())


@pytest.fixture
def no_waiting():
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def on_gpu(values):
    return tree_map(lambda leaf: leaf.cuda() if isinstance(leaf, torch.Tensor) else leaf, values)


@EVERY
def test_no_step_waits_for_the_device(loss, no_waiting):
    module, values = build(loss).cuda(), on_gpu(tensors(loss))
    for name in trained(values):
        values[name].requires_grad_()
    # The first step loads libraries, and may wait.
    module(**values).sum().backward()
    no_waiting()
    module(**values).sum().backward()


@EVERY
def test_values_and_gradients_are_those_of_the_cpu(loss):
    value, gradients = with_gradients(build(loss), tensors(loss))
    on_device, device_gradients = with_gradients(build(loss).cuda(), on_gpu(tensors(loss)))
    # Sums run in another order.
    torch.testing.assert_close(on_device.cpu(), value, rtol=1e-9, atol=1e-10)
    for name, gradient in device_gradients.items():
        torch.testing.assert_close(gradient.cpu(), gradients[name], rtol=1e-9, atol=1e-10)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_is_finite_under_autocast(loss, dtype):
    module = build(loss).float().cuda()
    values = {**tensors(loss), **{name: value.float() for name, value in floating(tensors(loss)).items()}}
    with torch.autocast("cuda", dtype):
        value, gradients = with_gradients(module, on_gpu(values))
    assert value.dtype in (torch.float32, torch.float64)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in [value, *gradients.values()])


@EVERY
def test_deterministic_algorithms_give_the_same_bits_or_refuse(loss):
    module, values = build(loss).float().cuda(), on_gpu(tensors(loss, batch=300))
    values |= {name: value.float() for name, value in floating(values).items()}
    torch.use_deterministic_algorithms(True)
    try:
        (value, gradients), (again, those) = (with_gradients(module, values) for _ in range(2))
    except RuntimeError as error:
        assert "does not have a deterministic implementation" in str(error)
        return
    finally:
        torch.use_deterministic_algorithms(False)
    if loss.identifier() != "mtard_balance":  # its second step is another one
        assert torch.equal(value, again)
        assert all(torch.equal(gradients[name], those[name]) for name in gradients)
