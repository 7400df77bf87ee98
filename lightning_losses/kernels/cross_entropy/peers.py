"""Implementations of other projects, if they are installed and support the options.

Each one computes the sum of the losses; torch multiplies it by the scale, so that the host need not know the scale.
"auto" chooses none of them.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_losses.kernels.autograd import second_order_refusal
from lightning_losses.kernels.cross_entropy.problem import (
    Impl,
    Implementation,
    LinearCrossEntropyValue,
    Problem,
    of_rows,
    refuse_tiles,
)
from lightning_losses.kernels.cross_entropy.reference import REFERENCE
from lightning_losses.kernels.terms import statistics_dtype
from lightning_losses.numerics.derivatives import first_derivatives_only

_IGNORED = -100
_HALVES = (torch.bfloat16, torch.float16)


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def has_torch_operation() -> bool:
    """Whether this torch has `torch.nn.functional.linear_cross_entropy` with chunking."""
    return hasattr(torch.nn, "LinearCrossEntropyOptions")


class Operation(NamedTuple):
    """One of a package's operations.

    Attributes:
        run: returns the sum of the losses and, if supported, of the z-loss's parts; or each row's loss and entropy.
        needs: returns what is missing on this machine or device, or in these tensors.
        offers: the supported options.
    """

    run: Callable[[Problem], tuple[Tensor, Tensor | None]]
    needs: Callable[[Problem], str | None] = lambda problem: None
    offers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Peer(Implementation):
    """Another project's implementation.

    Attributes:
        package: the package that must be importable.
        distribution: what installs it.
        reduced: the operation for the reduced loss.
        rows: the operation for differentiable losses of rows; None if there is none.
    """

    name: Impl
    products: str
    memory: str
    purpose: str
    package: str
    distribution: str
    reduced: Operation
    rows: Operation | None = None

    def refuses(self, problem: Problem) -> str | None:
        """Refuses filtering, a missing package, unsupported options, and problems that fail its own checks."""
        per_row = problem.per_row and self.rows is None
        if refusal := super().refuses(problem._replace(per_row=per_row)) or refuse_tiles(self.name, problem):
            return refusal
        operation = self.reduced if self.rows is None or not problem.per_row else self.rows
        if not installed(self.package):
            needed = f"needs the package {self.distribution}, which is not installed"
            return f"impl={self.name!r} {needed}; install it, or use impl='auto'."
        if need := operation.needs(problem):
            return f"impl={self.name!r} needs {need}."
        if missing := [name for name in _asked(problem) if name not in operation.offers]:
            return f"impl={self.name!r} has no {', '.join(missing)}; use impl='auto'."
        if problem.bias is not None and "bias" not in operation.offers:
            return f"impl={self.name!r} came with a bias, which its releases don't take; use impl='auto'."
        return None

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """By the package; what has no rows, which some packages divide by, by the logits."""
        if len(problem.hidden) == 0:
            return REFERENCE.evaluate(problem)
        statistics = statistics_dtype(problem.weight)
        if problem.per_row and self.rows is not None:
            losses, entropy = self.rows.run(problem)
            losses = first_derivatives_only(losses, second_order_refusal(self.name))
            entropy = None if entropy is None else entropy.to(statistics)
            # A loss is lse - picked: with lse = loss and picked = 0, everything except lse is right.
            return of_rows(problem, losses.to(statistics), torch.zeros_like(losses), None, entropy)._replace(lse=None)
        total, z_part = self.reduced.run(problem)
        total = first_derivatives_only(total, second_order_refusal(self.name))
        loss = total.to(statistics) * problem.scale
        z_part = torch.zeros_like(loss) if z_part is None else z_part * problem.scale
        return LinearCrossEntropyValue(loss, None, z_part.detach())


def _asked(problem: Problem) -> list[str]:
    """The options of a problem besides those of the reduction."""
    terms = problem.terms
    asked = {
        "softcap": terms.softcap is not None,
        "temperature": terms.temperature != 1,
        "row_function": terms.row_function is not None,
        "z_loss": isinstance(problem.z_scale, Tensor) or problem.z_scale != 0,
        "label_smoothing": terms.label_smoothing > 0,
        "label_smoothing beside a bias of -inf": terms.unmasked is not None and not bool(terms.unmasked.all()),
        "class_weight": terms.class_weight is not None,
        "accum_dtype": problem.accum_dtype is not None,
        "chunk": problem.chunk is not None,
        "sort_vocabulary": problem.sort_vocabulary,
        "return_lse": problem.lse,
        "return_entropy": problem.entropy,
    }
    return [name for name, wanted in asked.items() if wanted]


def _operands(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weight and targets, with ignored rows marked in the common form of all peers."""
    kept = problem.kept
    if kept is None:
        return problem.hidden, problem.weight, problem.target
    # An ignored row may hold NaN; as zeros its share of the gradient is 0.
    hidden = torch.where(kept.unsqueeze(1), problem.hidden, 0.0)
    return hidden, problem.weight, problem.target.masked_fill(~kept, _IGNORED)


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
        *_operands(problem),
        linear_bias=problem.bias,
        weight=None if weight is None else weight.to(problem.weight.dtype),
        reduction="sum",
        options=torch.nn.LinearCrossEntropyOptions(**options),
    )
    return total, None


def _cut(problem: Problem, form: str) -> tuple[Tensor, None]:
    options = {"softcap": problem.terms.softcap, "reduction": "sum", "filter_eps": None, "impl": form}
    return _module("cut_cross_entropy").linear_cross_entropy(*_operands(problem), **options), None


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
_LIGER_SM90_ROWS = "liger_kernel.ops.cutedsl.ops.fused_scaled_cross_entropy_sm90"


def _is_hopper(problem: Problem) -> bool:
    device = problem.weight.device
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def _by_liger_sm90(problem: Problem) -> bool:
    """Whether Liger's CuTe DSL implementation for Hopper is available and accepts the problem."""
    weight, tokens = problem.weight, len(problem.hidden)
    return (
        _is_hopper(problem)
        and weight.dtype == torch.bfloat16
        # It takes only whole tiles.
        and (tokens > 0 and tokens % 128 == 0 and len(weight) % 256 == 0)
        and (problem.bias is None and not _asked(problem))
        and (_has_module("cutlass") and _has_module(_LIGER_SM90))
    )


def _liger_rows_need(problem: Problem) -> str | None:
    if not _is_hopper(problem) or problem.weight.dtype != torch.bfloat16:
        return "bfloat16 on a GPU of compute capability 9.0 for losses of rows; use impl='auto'"
    if not (_has_module("cutlass") and _has_module(_LIGER_SM90_ROWS)):
        return "the package nvidia-cutlass-dsl for losses of rows, which is not installed; use impl='auto'"
    return None


def _liger_rows(problem: Problem) -> tuple[Tensor, Tensor | None]:
    function = _module(_LIGER_SM90_ROWS).LigerFusedScaledCrossEntropySM90Function
    operands = _operands(problem)
    # The 1 between the ignored target and the flag for entropies is the clustering of tiles.
    found = function.apply(*operands, float(problem.terms.temperature), _IGNORED, 1, problem.entropy)
    return found if problem.entropy else (found, None)


def _liger(problem: Problem) -> tuple[Tensor, Tensor | None]:
    operands = _operands(problem)
    if _by_liger_sm90(problem):
        return _module(_LIGER_SM90).liger_fused_linear_cross_entropy_sm90(*operands, _IGNORED, "sum"), None
    function = _module("liger_kernel.ops.fused_linear_cross_entropy").LigerFusedLinearCrossEntropyFunction
    # Its kernel takes a number from the host: the z-loss's weight, without the common scale.
    z_loss = float(problem.z_scale / problem.scale) if "z_loss" in _asked(problem) else 0.0
    # Class weights, the ignored target, z-loss, smoothing, reduction, softcap, and whether to return the z-loss's part.
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
    # Not tuned: tuning would time every configuration at the first step.
    return function(*_operands(problem), reduction="sum", tuned=False, **chunk), None


TORCH = Peer(
    *("torch", "3", "as its options", "plain, weighted and biased cross-entropy by `torch.nn.functional`"),
    package="torch",
    distribution="torch",
    reduced=Operation(_torch, _torch_operation, frozenset({"bias", "class_weight", "chunk", "accum_dtype"})),
)
CCE = Peer(
    *("cce", "theirs", "theirs", "CUDA in half precision, where the package is installed"),
    package="cut_cross_entropy",
    distribution="cut-cross-entropy",
    reduced=Operation(partial(_cut, form="cce"), _cut_needs, frozenset({"softcap"})),
)
CCE_TORCH_COMPILE = Peer(
    *("cce_torch_compile", "3", "holds the logits", "any device; CCE's form for `torch.compile`"),
    package="cut_cross_entropy",
    distribution="cut-cross-entropy",
    reduced=Operation(partial(_cut, form="torch_compile"), offers=frozenset({"softcap"})),
)
LIGER = Peer(
    *("liger", "3", "a chunk of tokens x V; on Hopper all logits", "CUDA, where the package is installed"),
    package="liger_kernel",
    distribution="liger-kernel",
    # It also has a softcap and class weights, but they can't be checked in interpreted kernels.
    reduced=Operation(_liger, _liger_needs, frozenset({"bias", "z_loss", "label_smoothing", "accum_dtype"})),
    rows=Operation(_liger_rows, _liger_rows_need, frozenset({"temperature", "return_entropy"})),
)
QUACK = Peer(
    *("quack", "3", "a chunk of tokens x V", "Hopper and later in half precision, where the package is installed"),
    package="quack",
    distribution="quack-kernels",
    reduced=Operation(_quack, _quack_needs, frozenset({"chunk"})),
)
