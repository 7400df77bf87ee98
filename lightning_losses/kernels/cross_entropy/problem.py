"""A checked call of `linear_cross_entropy`, and what each of its implementations says and does about one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import Operands, Summed, gradients_in_forward
from lightning_losses.kernels.terms import Terms, scores_of_kept
from lightning_losses.numerics.reduction import Reduction

Impl = Literal[
    "auto",
    "reference",
    "triton",
    "avx512",
    "chunked",
    "recompute",
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
        log_probability: of each token's target, as `lse`; None unless `return_log_probability`.
        entropy: of each token's distribution in nats, as `lse`; None unless `return_entropy`.
    """

    loss: Float[Tensor, "..."]
    lse: Float[Tensor, "..."] | None = None
    z_loss: Float[Tensor, "..."] | None = None
    log_probability: Float[Tensor, "..."] | None = None
    entropy: Float[Tensor, "..."] | None = None


class Problem(NamedTuple):
    """Rows, the head, and what is asked about them.

    Attributes:
        hidden, weight, target, bias: the operands, in the dtype of the products; an ignored row's target is 0.
        terms: what shapes one row's loss.
        places: where the rows stood among all tokens, whose shape is `shape`; None where all of them are here.
        kept: which rows count; None where all do. Elsewhere ignored rows were left out, which a GPU would have to
            tell the host.
        scale: multiplies the losses of rows.
        z_scale: multiplies the squared logsumexps.
        per_row: whether rows need a gradient of their own: no reduction, or a differentiable statistic of each.
        entropy, lse: whether rows' entropies and logsumexps are asked for.
        reduction, chunk, filter_eps, sort_vocabulary, accum_dtype: as `linear_cross_entropy` takes them.
    """

    hidden: Float[Tensor, "tokens width"]
    weight: Float[Tensor, "vocabulary width"]
    target: Int[Tensor, " tokens"]
    terms: Terms
    places: Int[Tensor, " tokens"] | None = None
    kept: Bool[Tensor, " tokens"] | None = None
    bias: Float[Tensor, " vocabulary"] | None = None
    shape: torch.Size = torch.Size()
    scale: float | Tensor = 1.0
    z_scale: float | Tensor = 0.0
    per_row: bool = False
    entropy: bool = False
    lse: bool = False
    reduction: Reduction = "mean"
    chunk: int | tuple[int, int] | None = None
    filter_eps: float | None = None
    sort_vocabulary: bool = False
    accum_dtype: torch.dtype | None = None

    @property
    def operands(self) -> Operands:
        """What is differentiated, and the targets."""
        return Operands(self.hidden, self.weight, self.bias, self.target)

    def without_operands(self) -> "Problem":
        """The same, for who gets the operands from autograd, which frees them after the backward pass."""
        nothing = self.hidden.new_empty(0)
        return self._replace(hidden=nothing, weight=nothing, target=nothing, bias=None)


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
    problem: Problem,
    lse: Float[Tensor, " tokens"],
    picked: Float[Tensor, " tokens"],
    smooth: Float[Tensor, " tokens"] | None = None,
    entropy: Float[Tensor, " tokens"] | None = None,
) -> LinearCrossEntropyValue:
    """What is asked for from rows' differentiable statistics: reduced, or each in its token's place.

    Args:
        problem: what is evaluated.
        lse: logsumexps.
        picked: the targets' scores.
        smooth: ``sum_v w_v l_v``, where labels are smoothed.
        entropy: entropies, where they are asked for.
    """

    def whole(values: Tensor) -> Tensor:
        if problem.places is not None:
            values = values.new_zeros(problem.shape.numel()).index_put((problem.places,), values)
        elif problem.kept is not None:
            values = values.masked_fill(~problem.kept, 0.0)
        return values.reshape(problem.shape)

    terms, picked = problem.terms, scores_of_kept(picked, lse, problem.kept)
    losses = whole(terms.cross_entropy(lse, picked, smooth, terms.row_weight(problem.target)))
    squares = whole(lse.square())
    penalty = problem.z_scale * (squares if problem.reduction == "none" else squares.sum())
    loss = losses + penalty if problem.reduction == "none" else problem.scale * losses.sum() + penalty
    return LinearCrossEntropyValue(
        loss, whole(lse), penalty.detach(), whole(picked - lse), None if entropy is None else whole(entropy)
    )


def of_sums(walk: Callable[..., Summed], name: str, problem: Problem, **options: Any) -> LinearCrossEntropyValue:
    """The reduced loss by a walk that makes the gradients in the forward pass.

    Args:
        walk: `sums_and_gradients` of an implementation.
        name: the implementation's.
        problem: what is evaluated.
        **options: what the walk takes beside the problem.
    """
    walk = partial(walk, problem=problem.without_operands(), **options)
    loss, z_part = gradients_in_forward(walk, name, problem.operands)
    return LinearCrossEntropyValue(loss, None, z_part)
