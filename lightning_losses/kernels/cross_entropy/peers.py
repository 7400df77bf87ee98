"""Other projects' implementations, where they are installed and can do what is asked."""

import importlib
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_losses.kernels.choice import has_torch_operation, installed
from lightning_losses.kernels.inputs import Problem


def evaluate(problem: Problem, impl: str) -> tuple[Tensor, None, Tensor]:
    """The reduced loss by a peer, and the z-loss's part, which is 0 for those without."""
    loss, z_part = _PEERS[impl](problem)
    return loss, None, problem.hidden.new_zeros(()) if z_part is None else z_part


def _refuse(problem: Problem, impl: str, **offered: bool) -> None:
    terms = problem.terms
    asked = {
        "softcap": terms.softcap is not None,
        "z_loss": not _is_zero(problem.z_scale),
        "label_smoothing": terms.label_smoothing > 0,
        "class_weight": terms.class_weight is not None,
        "accum_dtype": problem.accum_dtype is not None,
        "chunk": problem.chunk is not None,
        "sort_vocabulary": problem.sort_vocabulary,
    }
    if missing := [name for name, wanted in asked.items() if wanted and not offered.get(name, False)]:
        raise ValueError(f"linear_cross_entropy: impl={impl!r} has no {', '.join(missing)}; use impl='auto'.")


def _is_zero(scale: float | Tensor) -> bool:
    return not isinstance(scale, Tensor) and scale == 0


def _need(package: str, impl: str) -> None:
    if not installed(package):
        raise ValueError(
            f"linear_cross_entropy: impl={impl!r} needs the package {package}, which is not installed; use impl='auto'."
        )


def _need_cuda(problem: Problem, impl: str, remedy: str) -> None:
    if problem.weight.device.type != "cuda":
        raise ValueError(
            f"linear_cross_entropy: impl={impl!r} needs a CUDA device, and weight is on {problem.weight.device.type}; "
            f"use impl='chunked', or {remedy}."
        )


def _cce(problem: Problem) -> tuple[Tensor, None]:
    """Apple's kernels."""
    _need("cut_cross_entropy", "cce")
    _need_cuda(problem, "cce", "'cce_torch_compile', which holds the logits")
    return _cut(problem, "cce", "cce")


def _cce_torch_compile(problem: Problem) -> tuple[Tensor, None]:
    """Apple's compiled form, which holds the logits, on any device."""
    _need("cut_cross_entropy", "cce_torch_compile")
    return _cut(problem, "cce_torch_compile", "torch_compile")


def _cut(problem: Problem, impl: str, form: str) -> tuple[Tensor, None]:
    _refuse(problem, impl, softcap=True)
    if problem.bias is not None:
        raise ValueError(
            f"linear_cross_entropy: impl={impl!r} came with a bias, which its releases don't take; use impl='auto'."
        )
    package: Any = importlib.import_module("cut_cross_entropy")
    total = package.linear_cross_entropy(
        problem.hidden,
        problem.weight,
        problem.target,
        softcap=problem.terms.softcap,
        reduction="sum",
        filter_eps=None,
        impl=form,
    )
    return total * problem.scale, None


def _liger(problem: Problem) -> tuple[Tensor, Tensor]:
    """Liger's fused head; its Triton kernels need CUDA, or the interpreter."""
    _need("liger_kernel", "liger")
    if os.environ.get("TRITON_INTERPRET") != "1":
        _need_cuda(problem, "liger", "set TRITON_INTERPRET=1 before Python starts")
    # It has a softcap and class weights too, which its kernels' interpreted form can't be checked with.
    _refuse(problem, "liger", z_loss=True, label_smoothing=True, accum_dtype=True)
    package: Any = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
    terms, scale = problem.terms, float(problem.scale)
    found = package.LigerFusedLinearCrossEntropyFunction.apply(
        problem.hidden,
        problem.weight,
        problem.target,
        problem.bias,
        None,
        -100,
        float(problem.z_scale) / scale,
        terms.label_smoothing,
        "sum",
        None,
        True,
        problem.accum_dtype,
    )
    return found[0] * scale, found[1].detach() * scale


def _torch(problem: Problem) -> tuple[Tensor, None]:
    if not has_torch_operation():
        raise ValueError(
            f"linear_cross_entropy: impl='torch' needs torch.nn.LinearCrossEntropyOptions, which torch "
            f"{torch.__version__} lacks; use impl='chunked'."
        )
    _refuse(problem, "torch", class_weight=True)
    weight = problem.terms.class_weight
    total = F.linear_cross_entropy(
        problem.hidden,
        problem.weight,
        problem.target,
        linear_bias=problem.bias,
        weight=None if weight is None else weight.to(problem.weight.dtype),
        reduction="sum",
        options=torch.nn.LinearCrossEntropyOptions(),
    )
    return total * problem.scale, None


_PEERS: dict[str, Callable[[Problem], tuple[Tensor, Tensor | None]]] = {
    "torch": _torch,
    "cce": _cce,
    "cce_torch_compile": _cce_torch_compile,
    "liger": _liger,
}
