"""Other projects' implementations, where they are installed and can do what is asked."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_losses.kernels.cross_entropy.problem import Impl, Implementation, LinearCrossEntropyValue, Problem


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def has_torch_operation() -> bool:
    """Whether this torch has `torch.nn.functional.linear_cross_entropy` with chunking."""
    return hasattr(torch.nn, "LinearCrossEntropyOptions")


@dataclass(frozen=True)
class Peer(Implementation):
    """Another project's implementation of the reduced loss.

    Attributes:
        package: what must be installed.
        offers: the options that it has, beyond those of the reduction.
        needs: why it can't run on this machine, or on this device.
        run: the loss, and the z-loss's part if it has one.
    """

    name: Impl
    products: str
    memory: str
    purpose: str
    package: str
    offers: frozenset[str]
    needs: Callable[[Problem], str | None]
    run: Callable[[Problem], tuple[Tensor, Tensor | None]]

    def refuses(self, problem: Problem) -> str | None:
        """Rows' own gradients, filtering, a missing package, and options that it has not."""
        if refusal := super().refuses(problem):
            return refusal
        if not installed(self.package):
            return f"impl={self.name!r} needs the package {self.package}, which is not installed; use impl='auto'."
        if need := self.needs(problem):
            return f"impl={self.name!r} needs {need}."
        terms = problem.terms
        asked = {
            "softcap": terms.softcap is not None,
            "z_loss": isinstance(problem.z_scale, Tensor) or problem.z_scale != 0,
            "label_smoothing": terms.label_smoothing > 0,
            "class_weight": terms.class_weight is not None,
            "accum_dtype": problem.accum_dtype is not None,
            "chunk": problem.chunk is not None,
            "sort_vocabulary": problem.sort_vocabulary,
        }
        if missing := [name for name, wanted in asked.items() if wanted and name not in self.offers]:
            return f"impl={self.name!r} has no {', '.join(missing)}; use impl='auto'."
        if problem.bias is not None and "bias" not in self.offers:
            return f"impl={self.name!r} came with a bias, which its releases don't take; use impl='auto'."
        return None

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """By the package."""
        loss, z_part = self.run(problem)
        return LinearCrossEntropyValue(loss, None, problem.hidden.new_zeros(()) if z_part is None else z_part)


def _cuda(problem: Problem, remedy: str) -> str | None:
    if problem.weight.device.type == "cuda":
        return None
    return f"a CUDA device, and weight is on {problem.weight.device.type}; use impl='chunked', or {remedy}"


def _cuda_or_interpreter(problem: Problem) -> str | None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return _cuda(problem, "set TRITON_INTERPRET=1 before Python starts")


def _torch_operation(problem: Problem) -> str | None:
    if has_torch_operation():
        return None
    return f"torch.nn.LinearCrossEntropyOptions, which torch {torch.__version__} lacks; use impl='chunked'"


def _torch(problem: Problem) -> tuple[Tensor, None]:
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


def _cut(problem: Problem, form: str) -> tuple[Tensor, None]:
    package: Any = importlib.import_module("cut_cross_entropy")
    operands = problem.hidden, problem.weight, problem.target
    options = {"softcap": problem.terms.softcap, "reduction": "sum", "filter_eps": None, "impl": form}
    return package.linear_cross_entropy(*operands, **options) * problem.scale, None


def _liger(problem: Problem) -> tuple[Tensor, Tensor]:
    package: Any = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
    scale = float(problem.scale)
    operands = problem.hidden, problem.weight, problem.target, problem.bias
    # Class weights, the ignored target, z-loss, smoothing, reduction, softcap, and to return the z-loss's part.
    options = None, -100, float(problem.z_scale) / scale, problem.terms.label_smoothing, "sum", None, True
    loss, z_part, *_ = package.LigerFusedLinearCrossEntropyFunction.apply(*operands, *options, problem.accum_dtype)
    return loss * scale, z_part.detach() * scale


TORCH = Peer(
    *("torch", "3", "as its options", "plain, weighted and biased cross-entropy by `torch.nn.functional`"),
    package="torch",
    offers=frozenset({"bias", "class_weight"}),
    needs=_torch_operation,
    run=_torch,
)
CCE = Peer(
    *("cce", "theirs", "theirs", "CUDA, where the package is installed"),
    package="cut_cross_entropy",
    offers=frozenset({"softcap"}),
    needs=partial(_cuda, remedy="'cce_torch_compile', which holds the logits"),
    run=partial(_cut, form="cce"),
)
CCE_TORCH_COMPILE = Peer(
    *("cce_torch_compile", "3", "holds the logits", "any device; CCE's form for `torch.compile`"),
    package="cut_cross_entropy",
    offers=frozenset({"softcap"}),
    needs=lambda problem: None,
    run=partial(_cut, form="torch_compile"),
)
LIGER = Peer(
    *("liger", "theirs", "theirs", "CUDA, where the package is installed"),
    package="liger_kernel",
    # It has a softcap and class weights too, which its kernels' interpreted form can't be checked with.
    offers=frozenset({"bias", "z_loss", "label_smoothing", "accum_dtype"}),
    needs=_cuda_or_interpreter,
    run=_liger,
)
