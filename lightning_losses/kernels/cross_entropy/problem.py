"""A checked call of `linear_cross_entropy`, and what each of its implementations says and does about one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import Summed, gradients_in_forward
from lightning_losses.kernels.terms import Terms
from lightning_losses.numerics.reduction import Reduction

Impl = Literal[
    "auto",
    "reference",
    "avx512",
    "chunked",
    "recompute",
    "triton",
    "torch",
    "cce",
    "cce_torch_compile",
    "liger",
    "quack",
]
"""What the argument ``impl=`` takes: every implementation's name, in their order, and "auto"."""


class LinearCrossEntropyValue(NamedTuple):
    """The loss and what was asked for beside it.

    Attributes:
        loss: cross-entropy plus z-loss, reduced.
        lse: logsumexp of each token's scores, 0 where ignored, differentiable; None unless `return_lse`.
        z_loss: the z-loss's part of the loss, for logging, without gradient; None unless `return_z_loss`.
    """

    loss: Float[Tensor, "..."]
    lse: Float[Tensor, "..."] | None = None
    z_loss: Float[Tensor, "..."] | None = None


class Problem(NamedTuple):
    """Rows of which none is ignored, the head, and what is asked about them.

    Attributes:
        hidden, weight, target, bias: the operands, in the dtype of the products.
        terms: what shapes one row's loss.
        places: where the rows stood among all tokens, whose shape is `shape`.
        scale: multiplies the cross-entropies.
        z_scale: multiplies the squared logsumexps.
        per_row: whether rows need a gradient of their own: no reduction, or a differentiable logsumexp.
        reduction, chunk, filter_eps, sort_vocabulary, accum_dtype: as `linear_cross_entropy` takes them.
    """

    hidden: Float[Tensor, "tokens width"]
    weight: Float[Tensor, "vocabulary width"]
    target: Int[Tensor, " tokens"]
    terms: Terms
    places: Int[Tensor, " tokens"]
    bias: Float[Tensor, " vocabulary"] | None = None
    shape: torch.Size = torch.Size()
    scale: float | Tensor = 1.0
    z_scale: float | Tensor = 0.0
    per_row: bool = False
    reduction: Reduction = "mean"
    chunk: int | tuple[int, int] | None = None
    filter_eps: float | None = None
    sort_vocabulary: bool = False
    accum_dtype: torch.dtype | None = None


class Implementation(ABC):
    """One way to evaluate a problem.

    Attributes:
        name: what ``impl=`` calls it.
        products: how many matrix products of hidden states and weight it takes.
        memory: what it holds beyond the gradients.
        purpose: what it is for.
    """

    name: Impl
    products: str
    memory: str
    purpose: str

    def refuses(self, problem: Problem) -> str | None:
        """Why it can't evaluate this problem, as a sentence that says what would work; None if it can."""
        if problem.per_row:
            return f"impl={self.name!r} has no per-row losses or logsumexps; use 'recompute'."
        if problem.filter_eps is not None:
            return f"filter_eps came with impl={self.name!r}, which makes every gradient entry; use 'recompute'."
        return None

    def merit(self, problem: Problem) -> str | None:
        """Why ``impl="auto"`` takes it for a problem that it does not refuse; None where it passes it over."""
        return None

    @abstractmethod
    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """The loss of a problem that it does not refuse."""


def refuse_tiles(name: str, problem: Problem) -> str | None:
    """Why an implementation that cuts tokens alone does not take this problem's chunk; None if it does."""
    if not isinstance(problem.chunk, tuple):
        return None
    return (
        f"chunk={problem.chunk} came with impl={name!r}, which cuts tokens alone; give their number, or use "
        "'recompute'."
    )


def of_rows(
    problem: Problem, cross_entropy: Float[Tensor, " tokens"], lse: Float[Tensor, " tokens"]
) -> LinearCrossEntropyValue:
    """Rows' losses reduced, or put back among the ignored ones."""

    def whole(values: Tensor) -> Tensor:
        return values.new_zeros(problem.shape.numel()).index_put((problem.places,), values).reshape(problem.shape)

    squares = lse.square()
    if problem.reduction == "none":
        penalty = problem.z_scale * squares
        return LinearCrossEntropyValue(whole(cross_entropy + penalty), whole(lse), whole(penalty.detach()))
    penalty = problem.z_scale * squares.sum()
    return LinearCrossEntropyValue(problem.scale * cross_entropy.sum() + penalty, whole(lse), penalty.detach())


def of_sums(walk: Callable[..., Summed], name: str, problem: Problem, **options: Any) -> LinearCrossEntropyValue:
    """The reduced loss by a walk that makes the gradients in the forward pass.

    Args:
        walk: `sums_and_gradients` of an implementation.
        name: the implementation's.
        problem: what is evaluated.
        **options: what the walk takes beyond the problem's, or in its place.
    """
    asked = {"chunk": problem.chunk, "accum_dtype": problem.accum_dtype, **options}
    walk = partial(walk, terms=problem.terms, scale=problem.scale, z_scale=problem.z_scale, **asked)
    loss, z_part = gradients_in_forward(walk, name, problem.hidden, problem.weight, problem.bias, problem.target)
    return LinearCrossEntropyValue(loss, None, z_part)
