"""Other projects' heads, called as their own documentation calls them."""

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.on_cuda.operands import Operands
from lightning_losses.kernels.cross_entropy.peers import has_torch_operation


def _package(name: str) -> Any:
    return importlib.import_module(name)


def torch_chunked(o: Operands, reduction: str = "mean") -> Tensor:
    """torch's own, which chooses its chunk and what it accumulates in."""
    if not has_torch_operation():
        raise RuntimeError(f"torch {torch.__version__} has no chunked linear_cross_entropy")
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(o.hidden, o.weight, o.target, reduction=reduction, options=options)


def torch_chunked_per_token(o: Operands) -> Tensor:
    """The same for each token."""
    return (torch_chunked(o, reduction="none") * o.upstream).sum()


def liger(o: Operands) -> Tensor:
    """Liger's Triton kernel."""
    function = _package("liger_kernel.ops.fused_linear_cross_entropy").LigerFusedLinearCrossEntropyFunction
    return function.apply(o.hidden, o.weight, o.target, None, None, -100, 0.0, 0.0, "mean", None, False, None)[0]


def liger_sm90(o: Operands) -> Tensor:
    """Liger's CuTe DSL path for Hopper."""
    module = _package("liger_kernel.ops.cutedsl.ops.fused_linear_cross_entropy_sm90")
    return module.liger_fused_linear_cross_entropy_sm90(o.hidden, o.weight, o.target)


def liger_per_token(o: Operands) -> Tensor:
    """Liger's "scaled" head: each token's loss; CuTe DSL on Hopper."""
    function = _package("liger_kernel.ops.fused_linear_scaled_cross_entropy").LigerFusedLinearScaledCrossEntropyFunction
    return (function.apply(o.hidden, o.weight, o.target) * o.upstream).sum()


def liger_with_entropy(o: Operands, temperature: float) -> Tensor:
    """The same with the entropy beside it."""
    function = _package("liger_kernel.ops.fused_linear_scaled_cross_entropy").LigerFusedLinearScaledCrossEntropyFunction
    losses, entropy = function.apply(o.hidden, o.weight, o.target, temperature, -100, 1, True)
    return ((losses + 0.1 * entropy) * o.upstream).sum()


def cut(o: Operands) -> Tensor:
    """CCE as it comes, which filters gradients."""
    return _package("cut_cross_entropy").linear_cross_entropy(o.hidden, o.weight, o.target, impl="cce")


def cut_exact(o: Operands) -> Tensor:
    """CCE without its filter."""
    return _package("cut_cross_entropy").linear_cross_entropy(o.hidden, o.weight, o.target, impl="cce", filter_eps=None)


def cut_per_token(o: Operands) -> Tensor:
    """CCE for each token."""
    losses = _package("cut_cross_entropy").linear_cross_entropy(
        o.hidden, o.weight, o.target, impl="cce", reduction="none"
    )
    return (losses * o.upstream).sum()


def quack(o: Operands) -> Tensor:
    """QuACK's chunked head, with its default configurations."""
    return _package("quack.linear_cross_entropy").chunked_linear_cross_entropy(
        o.hidden, o.weight, o.target, tuned=False
    )


def liger_jsd(o: Operands) -> Tensor:
    """Liger's chunked JSD of two heads, compiled on a card."""
    function = _package("liger_kernel.chunked_loss.jsd_loss").LigerFusedLinearJSDFunction
    heads = o.hidden, o.weight, o.teacher_hidden, o.teacher_weight, o.target, None, None
    # Weights of the hard and the soft part, beta, the ignored target, temperature, whether to compile, the chunk.
    value = function.apply(*heads, 0.0, 1.0, 0.5, -100, 1.0, o.hidden.is_cuda, 1024, False)
    return value[0] if isinstance(value, tuple) else value
