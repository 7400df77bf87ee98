"""Other projects' implementations, where they are installed and can do what is asked."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_losses.kernels.choice import has_torch_operation
from lightning_losses.kernels.problem import Problem


def evaluate(problem: Problem, impl: str) -> tuple[Tensor, None, Tensor]:
    """The reduced loss by a peer, and the z-loss's part, which is 0."""
    return {"torch": _torch}[impl](problem), None, problem.hidden.new_zeros(())


def _refuse(problem: Problem, impl: str, **offered: bool) -> None:
    terms = problem.terms
    asked = {"softcap": terms.softcap is not None, "z_loss": not _is_zero(problem.z_scale),
             "label_smoothing": terms.label_smoothing > 0, "class_weight": terms.class_weight is not None,
             "accum_dtype": problem.accum_dtype is not None, "chunk": problem.chunk is not None,
             "sort_vocabulary": problem.sort_vocabulary}
    if missing := [name for name, wanted in asked.items() if wanted and not offered.get(name, False)]:
        raise ValueError(f"linear_cross_entropy: impl={impl!r} has no {', '.join(missing)}; use impl='auto'.")


def _is_zero(scale: float | Tensor) -> bool:
    return not isinstance(scale, Tensor) and scale == 0


def _torch(problem: Problem) -> Tensor:
    if not has_torch_operation():
        raise ValueError(f"linear_cross_entropy: impl='torch' needs torch.nn.LinearCrossEntropyOptions, which torch "
                         f"{torch.__version__} lacks; use impl='chunked'.")
    _refuse(problem, "torch", class_weight=True)
    weight = problem.terms.class_weight
    total = F.linear_cross_entropy(problem.hidden, problem.weight, problem.target, linear_bias=problem.bias,
                                   weight=None if weight is None else weight.to(problem.weight.dtype),
                                   reduction="sum",
                                   options=torch.nn.LinearCrossEntropyOptions())
    return total * problem.scale
