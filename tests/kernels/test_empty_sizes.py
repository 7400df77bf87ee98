"""Degenerate calls, through every door and implementation that a CPU has: the right value, or one sentence."""

import pytest
import torch

from lightning_losses.kernels.chunked_head import chunked_head
from lightning_losses.kernels.cross_entropy.avx512 import unsupported
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.linear_distillation import TopKLogits, linear_distillation
from lightning_losses.kernels.linear_emo import linear_emo
from lightning_losses.kernels.linear_margin_loss import linear_margin_loss
from lightning_losses.kernels.linear_stablemax_cross_entropy import linear_stablemax_cross_entropy
from lightning_losses.kernels.vocab_parallel import vocab_parallel_cross_entropy
from lightning_losses.losses import (
    DKD,
    EMO,
    KD,
    NKD,
    ArcFace,
    BinaryKL,
    CrossEntropy,
    GeneralizedJSD,
    ReverseKL,
    SkewKL,
)

pytestmark = pytest.mark.kernels

IMPLEMENTATIONS = ["reference", "chunked", "recompute", "auto"]
if unsupported(torch.zeros(1, 1), torch.zeros(1, 1)) is None:
    IMPLEMENTATIONS.append("avx512")
OPTIONS = [{}, {"softcap": 2.0, "label_smoothing": 0.1, "z_loss": 0.1}]


def distilled(objective, impl):
    def door(hidden, weight, target, bias, **options):
        teacher = torch.ones(len(hidden), 3, dtype=hidden.dtype), torch.ones(len(weight), 3, dtype=hidden.dtype)
        given = {"objective": objective, "bias": bias, "impl": impl}
        return linear_distillation(hidden, weight, *teacher, target, **given, **options).loss

    return door


DOORS = {
    **{
        f"{impl} {options}": lambda *call, impl=impl, options=options, **more: linear_cross_entropy(
            *call, impl=impl, **options, **more
        )
        for impl in IMPLEMENTATIONS
        for options in OPTIONS
    },
    "per row": lambda *call, **more: linear_cross_entropy(*call, return_lse=True, **more).loss,
    **{
        f"vocab-parallel {options}": lambda *call, options=options, **more: (
            vocab_parallel_cross_entropy(*call, **options, **more).loss
        )
        for options in OPTIONS
    },
    **{
        f"{type(objective).__name__} {impl}": distilled(objective, impl)
        for objective in (KD(), ReverseKL(), GeneralizedJSD(), NKD(), SkewKL())
        for impl in ("auto", "autograd", "reference")
    },
    **{
        f"stablemax {impl}": lambda *call, impl=impl, **more: linear_stablemax_cross_entropy(*call, impl=impl, **more)
        for impl in ("auto", "autograd", "reference")
    },
    **{
        # Of a margin's head there is no bias.
        f"margin {impl}": lambda hidden, weight, target, _, impl=impl, **more: linear_margin_loss(
            ArcFace(), hidden, weight, target, impl=impl, **more
        )
        for impl in ("auto", "autograd", "reference")
    },
    **{
        f"emo {impl}": lambda *call, impl=impl, **more: linear_emo(EMO(), *call, impl=impl, **more)
        for impl in ("auto", "autograd", "reference")
    },
    **{
        f"chunked head {impl}": lambda *call, impl=impl, **more: chunked_head(CrossEntropy(), *call, impl=impl, **more)
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
    assert loss == 0
    assert_gradients_of_0(loss, hidden, weight, bias)


@pytest.mark.parametrize("door", [door for door in DOORS if not door.startswith(("vocab-parallel", "avx512"))])
def test_no_tokens_without_reduction_are_no_values_with_gradients_of_0(door):
    hidden, weight, target, bias = call(0, 4, 5)
    loss = DOORS[door](hidden, weight, target, bias, reduction="none")
    assert loss.shape == (0,)
    assert_gradients_of_0(loss.sum(), hidden, weight, bias)


def assert_gradients_of_0(loss, *operands):
    gradients = torch.autograd.grad(loss, operands, allow_unused=True, materialize_grads=True)
    assert [gradient.shape for gradient in gradients] == [(0, 4), (5, 4), (5,)]
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


@pytest.mark.parametrize("impl", ["auto", "autograd"])
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (-1, "a cached logit of class -1 came with a vocabulary of 5"),
        (5, "a cached logit of class 5 came with a vocabulary of 5"),
        (2, "cached logits hold class 2 twice in a row; give each class once"),
    ],
)
def test_a_cached_class_outside_the_vocabulary_or_twice_is_refused(wrong, told, impl):
    hidden, weight, target, _ = call(3, 4, 5)
    cache = TopKLogits(torch.ones(3, 2), torch.tensor([[0, 1], [wrong, 2], [0, 1]]))
    with pytest.raises(ValueError, match=told):
        linear_distillation(hidden, weight, cache, target=target, objective=KD(), impl=impl)
    # Of a token that is ignored nothing is read.
    ignored = target.index_fill(0, torch.tensor([1]), -100)
    assert linear_distillation(hidden, weight, cache, target=ignored, objective=KD(), impl=impl).loss.isfinite()


@pytest.mark.parametrize("door", DOORS)
def test_a_head_of_one_class_is_refused(door):
    with pytest.raises(ValueError, match="a head of 1 class came, and softmax over one class is 1"):
        DOORS[door](*call(3, 4, 1))


def test_a_binary_divergence_takes_one_logit():
    hidden, weight, target, bias = call(3, 4, 1)
    assert distilled(BinaryKL(), "auto")(hidden, weight, target, bias).isfinite()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"chunk": 0}, "chunk=0 came; give whole numbers of at least 1"),
        ({"chunk": 1.5}, "chunk=1.5 came; give whole numbers"),
        ({"chunk": (2, 2, 2)}, r"chunk=\(2, 2, 2\) came; give (one|a) number of tokens"),
        ({"accum_dtype": torch.int32}, "accum_dtype=torch.int32 came; give one of torch.float16, "),
        ({"accum_dtype": torch.bool}, "accum_dtype=torch.bool came; give one of torch.float16, "),
        ({"accum_dtype": "float32"}, "accum_dtype='float32' came; give one of torch.float16, "),
        ({"normalizer": 0.0}, "normalizer=0.0 came; give a number above 0"),
        ({"normalizer": torch.ones(2)}, r"normalizer of shape \[2\] came; give one number above 0"),
        ({"normalizer": torch.tensor(-1.0)}, "normalizer=-1.0 came; give a number above 0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_size_or_count_is_refused(door, options, told):
    with pytest.raises(ValueError, match=told):
        DOORS[door](*call(3, 4, 5), **options)


@pytest.mark.parametrize("door", [door for door in DOORS if "vocab" in door or ("{" not in door and door != "per row")])
def test_a_chunk_of_the_vocabulary_is_refused_where_chunks_are_of_tokens(door):
    with pytest.raises(ValueError, match=r"chunk=\(2, 2\) came; give one number of tokens"):
        DOORS[door](*call(3, 4, 5), chunk=(2, 2))


def test_costs_without_width_are_refused():
    hidden, weight, target, _ = call(3, 4, 5)
    with pytest.raises(ValueError, match=r"linear_emo: cost_embedding of shape \[5, 0\] came"):
        linear_emo(EMO(), hidden, weight, target, cost_embedding=torch.ones(5, 0))


@pytest.mark.parametrize("impl", ["auto", "chunked", "autograd"])
@pytest.mark.parametrize("objective", [NKD(), DKD()], ids=["nkd", "dkd"])
def test_an_objective_of_the_target_is_told_that_there_is_none(objective, impl):
    hidden, weight, _, bias = call(3, 4, 5)
    with pytest.raises(ValueError, match="target came as None; give "):
        distilled(objective, impl)(hidden, weight, None, bias)
