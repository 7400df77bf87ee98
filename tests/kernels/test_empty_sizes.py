"""Sizes of 0, through every door and implementation that a CPU has: the right value, or one sentence."""

import pytest
import torch

from lightning_losses.kernels.chunked_head import chunked_head
from lightning_losses.kernels.cross_entropy.avx512 import unsupported
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.linear_distillation import TopKLogits, linear_distillation
from lightning_losses.kernels.vocab_parallel import vocab_parallel_cross_entropy
from lightning_losses.losses import KD, NKD, CrossEntropy, GeneralizedJSD, ReverseKL, SkewKL

pytestmark = pytest.mark.kernels

IMPLEMENTATIONS = ["reference", "chunked", "recompute", "auto"]
if unsupported(torch.zeros(1, 1), torch.zeros(1, 1)) is None:
    IMPLEMENTATIONS.append("avx512")
OPTIONS = [{}, {"softcap": 2.0, "label_smoothing": 0.1, "z_loss": 0.1}]


def distilled(objective, impl):
    def door(hidden, weight, target, bias):
        teacher = torch.ones(len(hidden), 3, dtype=hidden.dtype), torch.ones(len(weight), 3, dtype=hidden.dtype)
        return linear_distillation(hidden, weight, *teacher, target, objective=objective, bias=bias, impl=impl).loss

    return door


DOORS = {
    **{
        f"{impl} {options}": lambda *call, impl=impl, options=options: linear_cross_entropy(*call, impl=impl, **options)
        for impl in IMPLEMENTATIONS
        for options in OPTIONS
    },
    "per row": lambda *call: linear_cross_entropy(*call, reduction="none").sum(),
    **{
        f"vocab-parallel {options}": lambda *call, options=options: vocab_parallel_cross_entropy(*call, **options).loss
        for options in OPTIONS
    },
    **{
        f"{type(objective).__name__} {impl}": distilled(objective, impl)
        for objective in (KD(), ReverseKL(), GeneralizedJSD(), NKD(), SkewKL())
        for impl in ("auto", "autograd", "reference")
    },
    **{
        f"chunked head {impl}": lambda *call, impl=impl: chunked_head(CrossEntropy(), *call, impl=impl)
        for impl in ("auto", "autograd", "reference")
    },
}


def call(tokens, width, vocabulary, dtype=torch.float32):
    leaves = [torch.ones(shape, dtype=dtype).requires_grad_() for shape in ((tokens, width), (vocabulary, width))]
    bias = torch.ones(vocabulary, dtype=dtype).requires_grad_()
    return (*leaves, torch.zeros(tokens, dtype=torch.int64), bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("door", DOORS)
def test_no_tokens_are_0_with_gradients_of_0(door, dtype):
    hidden, weight, target, bias = call(0, 4, 5, dtype)
    loss = DOORS[door](hidden, weight, target, bias)
    gradients = torch.autograd.grad(loss, (hidden, weight, bias))
    assert loss == 0 and [g.shape for g in gradients] == [(0, 4), (5, 4), (5,)]
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("sizes", [(3, 0, 5), (0, 0, 5), (3, 4, 0), (0, 4, 0), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("door", DOORS)
def test_no_width_and_no_vocabulary_are_refused_in_a_sentence(door, sizes):
    with pytest.raises(ValueError, match=r"D and V at least 1\.|without rows on every process; give the head's rows"):
        DOORS[door](*call(*sizes))


def test_a_teacher_without_width_or_logits_is_refused_in_a_sentence():
    hidden, weight, target, _ = call(3, 4, 5)
    with pytest.raises(ValueError, match="E at least 1"):
        linear_distillation(hidden, weight, torch.ones(3, 0), torch.ones(5, 0), target, objective=KD())
    for cache in (torch.ones(3, 0), torch.ones(())):
        with pytest.raises(ValueError, match="k at least 1"):
            linear_distillation(hidden, weight, TopKLogits(cache, cache.long()), objective=KD())


def test_a_vocabulary_of_1_is_certain():
    for impl in IMPLEMENTATIONS:
        hidden, weight, target, bias = call(3, 4, 1)
        loss = linear_cross_entropy(hidden, weight, target, bias, impl=impl)
        assert loss == 0 and all((g == 0).all() for g in torch.autograd.grad(loss, (hidden, weight, bias)))
