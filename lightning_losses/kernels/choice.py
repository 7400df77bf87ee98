"""The implementations of `linear_cross_entropy`, and the choice of ``impl="auto"`` with its reason."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.kernels.cross_entropy.avx512 import AVX512
from lightning_losses.kernels.cross_entropy.chunked import CHUNKED
from lightning_losses.kernels.cross_entropy.peers import CCE, CCE_TORCH_COMPILE, LIGER, QUACK, TORCH
from lightning_losses.kernels.cross_entropy.problem import Impl, Implementation, Problem
from lightning_losses.kernels.cross_entropy.recompute import RECOMPUTE
from lightning_losses.kernels.cross_entropy.reference import REFERENCE
from lightning_losses.kernels.cross_entropy.triton import TRITON
from lightning_losses.kernels.inputs import check_accum_dtype
from lightning_losses.kernels.terms import Terms

IMPLEMENTATIONS: tuple[Implementation, ...] = (
    *(REFERENCE, TRITON, AVX512, CHUNKED, RECOMPUTE),
    *(TORCH, CCE, CCE_TORCH_COMPILE, LIGER, QUACK),
)
"""All there are; "auto" takes the first that can evaluate the problem and has merit there."""


class Choice(NamedTuple):
    """An implementation by name, and the reason for it in a sentence."""

    impl: Impl
    reason: str


def choose_implementation(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    *,
    per_row: bool = False,
    filtered: bool = False,
    softcap: float | None = None,
    accum_dtype: torch.dtype | None = None,
    impl: Impl = "auto",
) -> Choice:
    """The implementation of `linear_cross_entropy` for these tensors.

    Args:
        hidden: [N, D] hidden states.
        weight: [V, D] head.
        per_row: whether each row needs its own gradient: without reduction, or for a differentiable logsumexp.
        filtered: whether gradient filtering is asked for.
        softcap: the scores' softcap, if there is one.
        accum_dtype: the dtype in which the weight's gradient is accumulated, if given.
        impl: a name other than "auto" is returned as it is.

    Example:
        >>> choose_implementation(torch.zeros(2, 4), torch.zeros(10, 4)).reason
        'the logits take 80 bytes in float32, which is little to hold (at most 4 MiB)'
    """
    check_accum_dtype("choose_implementation", accum_dtype)
    problem = Problem(
        hidden,
        weight,
        target=hidden.new_empty(0, dtype=torch.int64),
        terms=Terms(len(weight), softcap=softcap),
        per_row=per_row,
        filter_eps=0.0 if filtered else None,
        accum_dtype=accum_dtype,
    )
    chosen, reason = choose(problem, named(impl))
    return Choice(chosen.name, reason)


def named(impl: Impl) -> Implementation | None:
    """The implementation with the given name; None for "auto"."""
    return next((implementation for implementation in IMPLEMENTATIONS if implementation.name == impl), None)


def choose(problem: Problem, asked: Implementation | None = None) -> tuple[Implementation, str]:
    """The implementation for a problem, and the reason for it.

    Args:
        problem: the sizes, dtypes and options of the call.
        asked: a name other than "auto" is returned, even if it can't evaluate the problem.
    """
    if asked is CHUNKED and problem.per_row:
        return RECOMPUTE, (
            "gradients per row are known only in the backward pass, so the chunks are computed again "
            "there; 'chunked' makes its gradients in forward"
        )
    if asked is not None:
        return asked, "asked for"
    able = (implementation for implementation in IMPLEMENTATIONS if implementation.refuses(problem) is None)
    for implementation in able:
        if merit := implementation.merit(problem):
            passed_over = AVX512.passed_over(problem) if implementation is CHUNKED else None
            return implementation, merit if passed_over is None else f"{merit}; not 'avx512': {passed_over}"
    raise AssertionError("'recompute' evaluates every problem")
