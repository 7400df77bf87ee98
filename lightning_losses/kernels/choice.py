"""Which implementation `impl="auto"` takes, and why."""

import importlib.util
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_losses.kernels.cross_entropy.avx512 import unsupported
from lightning_losses.kernels.products import cpu_flags, cpu_vendor

Impl = Literal[
    "auto", "reference", "chunked", "avx512", "recompute", "triton", "torch", "cce", "cce_torch_compile", "liger"
]

SMALL = 4 * 2**20
"""Bytes of logits, in float32, up to which holding them is simplest and as fast."""


class Choice(NamedTuple):
    """An implementation by name, and the reason for it in a sentence."""

    impl: Impl
    reason: str


def choose_implementation(
    hidden: Tensor,
    weight: Tensor,
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
        per_row: whether rows need a gradient of their own: no reduction, or a differentiable logsumexp.
        filtered: whether gradient filtering is asked for.
        softcap: the scores' softcap, if there is one.
        accum_dtype: what the weight's gradient is to gather in, if that is said.
        impl: a choice already made stands.

    Example:
        >>> choose_implementation(torch.zeros(2, 4), torch.zeros(10, 4)).reason
        'the logits take 80 bytes in float32, which is little to hold (at most 4 MiB)'
    """
    if impl == "chunked" and per_row:
        return Choice(
            "recompute",
            "per-row gradients are known in backward alone, so the chunks are computed again "
            "there; 'chunked' makes its gradients in forward",
        )
    if impl != "auto":
        return Choice(impl, "asked for")
    logits = hidden.shape[0] * weight.shape[0] * 4
    if filtered:
        return Choice("recompute", "gradient filtering asked for")
    if logits <= SMALL:
        return Choice(
            "reference",
            f"the logits take {logits} bytes in float32, which is little to hold (at most {SMALL // 2**20} MiB)",
        )
    if per_row:
        return Choice("recompute", "per-row gradients are known in backward alone, so the scores are made again there")
    reason = "the logits are large; gradients made in forward need three products, not four"
    if hidden.device.type != "cpu":
        return Choice("chunked", reason)
    missing = unsupported(hidden, weight, softcap, accum_dtype)
    if missing is None and cpu_vendor() != "AuthenticAMD":
        missing = "it was measured on AMD's CPUs alone"
    if missing is None and weight.dtype == torch.bfloat16 and "amx_bf16" in cpu_flags():
        missing = "this CPU's AMX multiplies bfloat16 faster"
    if missing is None:
        return Choice("avx512", f"{reason}, and the walk over the head is compiled for this CPU")
    return Choice("chunked", f"{reason}; not 'avx512': {missing}")


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def has_torch_operation() -> bool:
    """Whether this torch has `torch.nn.functional.linear_cross_entropy` with chunking."""
    return hasattr(torch.nn, "LinearCrossEntropyOptions")
