"""Other projects' implementations, where they are installed and can do what is asked.

Each is called with the sum of the losses, and what scales it is multiplied on by torch, so that the host need not know
it. "auto" takes none of them.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.cross_entropy.problem import (
    Impl,
    Implementation,
    LinearCrossEntropyValue,
    Problem,
    refuse_tiles,
)
from lightning_losses.kernels.terms import statistics_dtype

_IGNORED = -100
_HALVES = (torch.bfloat16, torch.float16)


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
        needs: what it lacks on this machine, on this device, or of these tensors.
        run: the sum of the losses, and of the z-loss's parts if it has them.
    """

    name: Impl
    products: str
    memory: str
    purpose: str
    package: str
    offers: frozenset[str]
    needs: Callable[[Problem], str | None]
    run: Callable[[Problem], tuple[Float[Tensor, ""], Float[Tensor, ""] | None]]

    def refuses(self, problem: Problem) -> str | None:
        """Rows' own gradients, filtering, a missing package, options that it has not, and tensors that it refuses."""
        if refusal := super().refuses(problem) or refuse_tiles(self.name, problem):
            return refusal
        if not installed(self.package):
            return f"impl={self.name!r} needs the package {self.package}, which is not installed; use impl='auto'."
        if need := self.needs(problem):
            return f"impl={self.name!r} needs {need}."
        if missing := [name for name in _asked(problem) if name not in self.offers]:
            return f"impl={self.name!r} has no {', '.join(missing)}; use impl='auto'."
        if problem.bias is not None and "bias" not in self.offers:
            return f"impl={self.name!r} came with a bias, which its releases don't take; use impl='auto'."
        return None

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """By the package."""
        total, z_part = self.run(problem)
        loss = total.to(statistics_dtype(problem.weight)) * problem.scale
        z_part = torch.zeros_like(loss) if z_part is None else z_part * problem.scale
        return LinearCrossEntropyValue(loss, None, z_part.detach())


def _asked(problem: Problem) -> list[str]:
    """The options beyond the reduction's that a problem comes with."""
    terms = problem.terms
    asked = {
        "softcap": terms.softcap is not None,
        "temperature": getattr(terms, "temperature", 1.0) != 1.0,
        "row_function": getattr(terms, "row_function", None) is not None,
        "z_loss": isinstance(problem.z_scale, Tensor) or problem.z_scale != 0,
        "label_smoothing": terms.label_smoothing > 0,
        "class_weight": terms.class_weight is not None,
        "accum_dtype": problem.accum_dtype is not None,
        "chunk": problem.chunk is not None,
        "sort_vocabulary": problem.sort_vocabulary,
    }
    return [name for name, wanted in asked.items() if wanted]


def _targets(problem: Problem) -> Int[Tensor, " tokens"]:
    """The targets, with rows that count for nothing marked as every peer marks them."""
    kept = getattr(problem, "kept", None)
    return problem.target if kept is None else problem.target.masked_fill(~kept, _IGNORED)


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _cuda(problem: Problem, remedy: str) -> str | None:
    if problem.weight.device.type == "cuda":
        return None
    return f"a CUDA device, and weight is on {problem.weight.device.type}; use impl='chunked', or {remedy}"


def _halves(problem: Problem) -> str | None:
    if problem.hidden.dtype in _HALVES:
        return None
    return f"bfloat16 or float16, and hidden has dtype {problem.hidden.dtype}; use impl='auto', or autocast"


def _torch_operation(problem: Problem) -> str | None:
    if has_torch_operation():
        return None
    return f"torch.nn.LinearCrossEntropyOptions, which torch {torch.__version__} lacks; use impl='auto'"


def _torch(problem: Problem) -> tuple[Tensor, None]:
    options: dict[str, Any] = {"batch_chunk_size": problem.chunk}
    if problem.accum_dtype not in (None, problem.weight.dtype):
        options |= {"acc_policy": "accurate", "acc_dtype": problem.accum_dtype}
    weight = problem.terms.class_weight
    total = F.linear_cross_entropy(
        problem.hidden,
        problem.weight,
        _targets(problem),
        linear_bias=problem.bias,
        weight=None if weight is None else weight.to(problem.weight.dtype),
        reduction="sum",
        options=torch.nn.LinearCrossEntropyOptions(**options),
    )
    return total, None


def _cut(problem: Problem, form: str) -> tuple[Tensor, None]:
    operands = problem.hidden, problem.weight, _targets(problem)
    options = {"softcap": problem.terms.softcap, "reduction": "sum", "filter_eps": None, "impl": form}
    return _module("cut_cross_entropy").linear_cross_entropy(*operands, **options), None


def _cut_needs(problem: Problem) -> str | None:
    return _cuda(problem, "'cce_torch_compile', which holds the logits") or _halves(problem)


def _liger_needs(problem: Problem) -> str | None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return _cuda(problem, "set TRITON_INTERPRET=1 before Python starts")


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


_LIGER_SM90 = "liger_kernel.ops.cutedsl.ops.fused_linear_cross_entropy_sm90"


def _by_liger_sm90(problem: Problem) -> bool:
    """Whether Liger's path for Hopper, written in CuTe DSL, is there and takes the problem."""
    weight, tokens = problem.weight, len(problem.hidden)
    return (
        weight.device.type == "cuda"
        and torch.cuda.get_device_capability(weight.device) == (9, 0)
        and weight.dtype == torch.bfloat16
        # Its tiles must be whole ones.
        and (tokens > 0 and tokens % 128 == 0 and len(weight) % 256 == 0)
        and (problem.bias is None and not _asked(problem))
        and (_has_module("cutlass") and _has_module(_LIGER_SM90))
    )


def _liger(problem: Problem) -> tuple[Tensor, Tensor | None]:
    operands = problem.hidden, problem.weight, _targets(problem)
    if _by_liger_sm90(problem):
        return _module(_LIGER_SM90).liger_fused_linear_cross_entropy_sm90(*operands, _IGNORED, "sum"), None
    function = _module("liger_kernel.ops.fused_linear_cross_entropy").LigerFusedLinearCrossEntropyFunction
    # Its kernel takes a number, which the host must know: the z-loss's own weight, without what scales both parts.
    z_loss = float(problem.z_scale / problem.scale) if "z_loss" in _asked(problem) else 0.0
    # Class weights, the ignored target, z-loss, smoothing, reduction, softcap, and to return the z-loss's part.
    options = None, _IGNORED, z_loss, problem.terms.label_smoothing, "sum", None, True
    loss, z_part, *_ = function.apply(*operands, problem.bias, *options, problem.accum_dtype)
    return loss, z_part


def _quack_needs(problem: Problem) -> str | None:
    if need := _cuda(problem, "impl='auto'") or _halves(problem):
        return need
    major, minor = torch.cuda.get_device_capability(problem.weight.device)
    if major < 9:
        return f"compute capability 9.0 or later, and the device has {major}.{minor}; use impl='auto'"
    sizes = [*problem.hidden.shape, len(problem.weight), problem.chunk or 8]
    if any(size % 8 for size in sizes):
        return f"multiples of 8, and N, D, V and the chunk are {sizes}; use impl='auto'"
    return None


def _quack(problem: Problem) -> tuple[Tensor, None]:
    function = _module("quack.linear_cross_entropy").chunked_linear_cross_entropy
    chunk = {} if problem.chunk is None else {"chunk_size": problem.chunk}
    # Not tuned: its search would time every configuration at the first step.
    return function(problem.hidden, problem.weight, _targets(problem), reduction="sum", tuned=False, **chunk), None


TORCH = Peer(
    *("torch", "3", "as its options", "plain, weighted and biased cross-entropy by `torch.nn.functional`"),
    package="torch",
    offers=frozenset({"bias", "class_weight", "chunk", "accum_dtype"}),
    needs=_torch_operation,
    run=_torch,
)
CCE = Peer(
    *("cce", "theirs", "theirs", "CUDA in half precision, where the package is installed"),
    package="cut_cross_entropy",
    offers=frozenset({"softcap"}),
    needs=_cut_needs,
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
    *("liger", "3", "a chunk of tokens x V; on Hopper all logits", "CUDA, where the package is installed"),
    package="liger_kernel",
    # It has a softcap and class weights too, which its kernels' interpreted form can't be checked with.
    offers=frozenset({"bias", "z_loss", "label_smoothing", "accum_dtype"}),
    needs=_liger_needs,
    run=_liger,
)
QUACK = Peer(
    *("quack", "3", "a chunk of tokens x V", "Hopper and later in half precision, where the package is installed"),
    package="quack",
    offers=frozenset({"chunk"}),
    needs=_quack_needs,
    run=_quack,
)
