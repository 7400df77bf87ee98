"""Which implementation `impl="auto"` takes, and why."""

import importlib.util
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Impl = Literal["auto", "reference", "chunked", "recompute", "triton", "torch", "cce", "cce_torch_compile", "liger"]

SMALL = 4 * 2**20
"""Bytes of logits, in float32, up to which holding them is simplest and as fast."""


class Choice(NamedTuple):
    """An implementation by name, and the reason for it in a sentence."""

    impl: Impl
    reason: str


def choose_implementation(
    hidden: Tensor, weight: Tensor, *, per_row: bool = False, filtered: bool = False, impl: Impl = "auto"
) -> Choice:
    """The implementation of `linear_cross_entropy` for these tensors.

    Args:
        hidden: [N, D] hidden states.
        weight: [V, D] head.
        per_row: whether rows need a gradient of their own: no reduction, or a differentiable logsumexp.
        filtered: whether gradient filtering is asked for.
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
    return Choice("chunked", "the logits are large; gradients made in forward need three products, not four")


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def has_torch_operation() -> bool:
    """Whether this torch has `torch.nn.functional.linear_cross_entropy` with chunking."""
    return hasattr(torch.nn, "LinearCrossEntropyOptions")
