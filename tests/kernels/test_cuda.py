"""The heads beside cross-entropy and distillation on a GPU: the numbers of the CPU, without a wait of the host."""

import pytest
import torch

from lightning_losses import (
    EMO,
    ArcFace,
    Focal,
    MbLS,
    NoiseFiT,
    chunked_head,
    linear_margin_loss,
    linear_spherical_z_loss,
    linear_stablemax_cross_entropy,
    vocab_parallel_cross_entropy,
)
from lightning_losses.kernels.linear_emo import linear_emo
from lightning_losses.kernels.linear_noisefit import linear_noisefit
from lightning_losses.kernels.token_record import token_record
from tests.kernels.on_cuda import assert_the_host_never_waits

pytestmark = [pytest.mark.kernels, pytest.mark.cuda]

TOKENS, WIDTH, VOCABULARY = 300, 32, 500


def record(hidden, other, weight, target):
    measured = token_record(hidden, weight, target, entropies=True, log_collisions=True, variances=True, ranks=True)
    return measured.logps + measured.entropies + measured.log_collisions + measured.variances + measured.ranks


HEADS = {
    "function of cross-entropy": lambda hidden, other, weight, target: chunked_head(Focal(2.0), hidden, weight, target),
    "row-wise loss": lambda hidden, other, weight, target: chunked_head(MbLS(), hidden, weight, target),
    "stablemax": lambda hidden, other, weight, target: linear_stablemax_cross_entropy(hidden, weight, target),
    "margin": lambda hidden, other, weight, target: linear_margin_loss(ArcFace(), hidden, weight, target),
    "emo": lambda hidden, other, weight, target: linear_emo(EMO(), hidden, weight, target),
    "noisefit": lambda hidden, other, weight, target: linear_noisefit(
        NoiseFiT(), hidden, other, 2 * other, weight, target
    ),
    "spherical": lambda hidden, other, weight, target: linear_spherical_z_loss(hidden, weight, target),
    "record": record,
    "vocab-parallel": lambda hidden, other, weight, target: (
        vocab_parallel_cross_entropy(hidden, weight, target, sizes=[VOCABULARY], z_loss=0.01).loss
    ),
}


def operands(device, dtype):
    generator = torch.Generator().manual_seed(3)
    shapes = ((TOKENS, WIDTH), (TOKENS, WIDTH), (VOCABULARY, WIDTH))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]
    target = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    target[::7] = -100
    return [tensor.requires_grad_() for tensor in tensors], target.to(device)


@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_are_those_of_the_cpu(name):
    outcomes = []
    for device in ("cpu", "cuda"):
        tensors, target = operands(device, torch.float64)
        value = HEADS[name](*tensors, target)
        gradients = torch.autograd.grad(value.sum(), tensors, allow_unused=True, materialize_grads=True)
        outcomes.append([value.detach().cpu(), *(gradient.cpu() for gradient in gradients)])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", HEADS)
def test_the_host_never_waits(name, dtype):
    tensors, target = operands("cuda", dtype)
    assert_the_host_never_waits(lambda: HEADS[name](*tensors, target).sum().backward())
    assert tensors[0].grad.isfinite().all() and tensors[2].grad.isfinite().all()
