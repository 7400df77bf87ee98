"""Other projects' implementations, where they are installed and can do what is asked."""

import importlib
import importlib.util
import os
from typing import Any, ClassVar

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


class Peer(Implementation):
    """Another project's implementation of the reduced loss.

    Attributes:
        package: what must be installed.
        offers: the options that it has, beyond those of the head and the reduction.
    """

    package: ClassVar[str] = "torch"
    offers: ClassVar[frozenset[str]] = frozenset()

    def refuses(self, problem: Problem) -> str | None:
        """Rows' own gradients, filtering, a missing package, and options that it has not."""
        if refusal := super().refuses(problem):
            return refusal
        if not installed(self.package):
            return f"impl={self.name!r} needs the package {self.package}, which is not installed; use impl='auto'."
        return self.needs(problem) or self._lacks(problem)

    def needs(self, problem: Problem) -> str | None:
        """Why it can't run on this machine, or on this device."""
        return None

    def _lacks(self, problem: Problem) -> str | None:
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
        missing = [name for name, wanted in asked.items() if wanted and name not in self.offers]
        return f"impl={self.name!r} has no {', '.join(missing)}; use impl='auto'." if missing else None

    def _needs_cuda(self, problem: Problem, remedy: str) -> str | None:
        if problem.weight.device.type == "cuda":
            return None
        return (
            f"impl={self.name!r} needs a CUDA device, and weight is on {problem.weight.device.type}; "
            f"use impl='chunked', or {remedy}."
        )


class Torch(Peer):
    """PyTorch's own."""

    name = "torch"
    products, memory = "3", "as its options"
    purpose = "plain, weighted and biased cross-entropy by `torch.nn.functional`"
    offers = frozenset({"class_weight"})

    def needs(self, problem: Problem) -> str | None:
        """A version of torch that has it."""
        if has_torch_operation():
            return None
        return (
            f"impl='torch' needs torch.nn.LinearCrossEntropyOptions, which torch {torch.__version__} lacks; "
            "use impl='chunked'."
        )

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """The sum, scaled."""
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
        return _scaled(problem, total)


class CompiledCutCrossEntropy(Peer):
    """Apple's compiled form, which holds the logits, on any device."""

    name: ClassVar[Impl] = "cce_torch_compile"
    products, memory = "3", "holds the logits"
    purpose = "any device; CCE's form for `torch.compile`"
    package = "cut_cross_entropy"
    offers = frozenset({"softcap"})
    form: ClassVar[str] = "torch_compile"

    def refuses(self, problem: Problem) -> str | None:
        """What a peer does, and a bias."""
        if refusal := super().refuses(problem):
            return refusal
        if problem.bias is None:
            return None
        return f"impl={self.name!r} came with a bias, which its releases don't take; use impl='auto'."

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """The sum, scaled."""
        package: Any = importlib.import_module(self.package)
        total = package.linear_cross_entropy(
            problem.hidden,
            problem.weight,
            problem.target,
            softcap=problem.terms.softcap,
            reduction="sum",
            filter_eps=None,
            impl=self.form,
        )
        return _scaled(problem, total)


class CutCrossEntropy(CompiledCutCrossEntropy):
    """Apple's kernels."""

    name = "cce"
    products, memory = "theirs", "theirs"
    purpose = "CUDA, where the package is installed"
    form = "cce"

    def needs(self, problem: Problem) -> str | None:
        """A GPU."""
        return self._needs_cuda(problem, "'cce_torch_compile', which holds the logits")


class Liger(Peer):
    """Liger's fused head; its Triton kernels need CUDA, or the interpreter."""

    name = "liger"
    products, memory = "theirs", "theirs"
    purpose = "CUDA, where the package is installed"
    package = "liger_kernel"
    # It has a softcap and class weights too, which its kernels' interpreted form can't be checked with.
    offers = frozenset({"z_loss", "label_smoothing", "accum_dtype"})

    def needs(self, problem: Problem) -> str | None:
        """A GPU, or Triton's interpreter."""
        if os.environ.get("TRITON_INTERPRET") == "1":
            return None
        return self._needs_cuda(problem, "set TRITON_INTERPRET=1 before Python starts")

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """The sum with the z-loss's part, scaled."""
        package: Any = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
        scale = float(problem.scale)
        loss, z_part, *_ = package.LigerFusedLinearCrossEntropyFunction.apply(
            problem.hidden,
            problem.weight,
            problem.target,
            problem.bias,
            None,
            -100,
            float(problem.z_scale) / scale,
            problem.terms.label_smoothing,
            "sum",
            None,
            True,
            problem.accum_dtype,
        )
        return LinearCrossEntropyValue(loss * scale, None, z_part.detach() * scale)


def _scaled(problem: Problem, total: Tensor) -> LinearCrossEntropyValue:
    """Without a z-loss."""
    return LinearCrossEntropyValue(total * problem.scale, None, problem.hidden.new_zeros(()))


TORCH, CCE, CCE_TORCH_COMPILE, LIGER = Torch(), CutCrossEntropy(), CompiledCutCrossEntropy(), Liger()
