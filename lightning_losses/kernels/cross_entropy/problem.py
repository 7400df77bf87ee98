"""A checked call of `linear_cross_entropy`, and the interface of its implementations."""

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
"""The values of the argument ``impl=``: every implementation's name, in order, and "auto"."""


class LinearCrossEntropyValue(NamedTuple):
    """The loss and the requested further values.

    Attributes:
        loss: cross-entropy plus z-loss, reduced.
        lse: logsumexp of each token's scores, 0 where ignored, differentiable; None unless `return_lse`.
        z_loss: the z-loss's part of the loss, for logging, without gradient; None unless `return_z_loss`.
        log_probability: log-probability of each token's target, like `lse`; None unless `return_log_probability`.
        entropy: entropy of each token's distribution in nats, like `lse`; None unless `return_entropy`.
    """

    loss: Float[Tensor, "..."]
    lse: Float[Tensor, "..."] | None = None
    z_loss: Float[Tensor, "..."] | None = None
    log_probability: Float[Tensor, "..."] | None = None
    entropy: Float[Tensor, "..."] | None = None


class Problem(NamedTuple):
    """Rows, the head, and the options.

    Attributes:
        hidden, weight, target, bias: the operands, in the dtype of the products; an ignored row's target is 0.
        terms: the options that shape one row's loss.
        places: positions of the rows among all tokens, whose shape is `shape`; None if no token was dropped.
        kept: which rows count; None if all do, for example because ignored rows were dropped. A GPU would have to
            synchronise to drop rows, because the host needs their number.
        scale: the factor of the rows' losses.
        z_scale: the factor of the squared logsumexps.
        per_row: whether each row needs its own gradient: without reduction, or with a differentiable statistic.
        entropy, lse: whether the rows' entropies and logsumexps are requested.
        reduction, chunk, filter_eps, sort_vocabulary, accum_dtype: as in `linear_cross_entropy`.
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
        """The differentiable tensors and the targets."""
        return Operands(self.hidden, self.weight, self.bias, self.target)

    def without_operands(self) -> "Problem":
        """The problem without its operands: autograd saves these, and frees them after the backward pass."""
        nothing = self.hidden.new_empty(0)
        return self._replace(hidden=nothing, weight=nothing, target=nothing, bias=None)


class Implementation(ABC):
    """One way to evaluate a problem.

    Attributes:
        name: its name in ``impl=``.
        products: number of matrix products of hidden states and weight.
        memory: the memory that it holds besides the gradients.
        purpose: the use that it is made for.
    """

    name: Impl
    products: str
    memory: str
    purpose: str

    def refuses(self, problem: Problem) -> str | None:
        """Why it can't evaluate this problem, as a sentence that names the remedy; None if it can."""
        if problem.per_row:
            return f"impl={self.name!r} has no per-row losses or logsumexps; use 'recompute'."
        if problem.filter_eps is not None:
            return f"filter_eps came with impl={self.name!r}, which makes every gradient entry; use 'recompute'."
        return None

    def merit(self, problem: Problem) -> str | None:
        """Why ``impl="auto"`` chooses it for a problem that it doesn't refuse; None if it doesn't."""
        return None

    @abstractmethod
    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """The loss of a problem that it doesn't refuse."""


def refuse_tiles(name: str, problem: Problem) -> str | None:
    """Why an implementation with chunks of tokens only can't take this problem's `chunk`; None if it can."""
    if not isinstance(problem.chunk, tuple):
        return None
    return (
        f"chunk={problem.chunk} came with impl={name!r}, which takes chunks of tokens only; give their number, or use "
        "'recompute'."
    )


def of_rows(
    problem: Problem,
    lse: Float[Tensor, " tokens"],
    picked: Float[Tensor, " tokens"],
    smooth: Float[Tensor, " tokens"] | None = None,
    entropy: Float[Tensor, " tokens"] | None = None,
) -> LinearCrossEntropyValue:
    """The requested values from rows' differentiable statistics: reduced, or at each token's position.

    Args:
        problem: the problem.
        lse: logsumexps.
        picked: the targets' scores.
        smooth: ``sum_v w_v l_v``, if labels are smoothed.
        entropy: entropies, if requested.
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
    """The reduced loss by a walk that computes gradients in the forward pass.

    Args:
        walk: `sums_and_gradients` of an implementation.
        name: the implementation's name.
        problem: the problem.
        **options: further arguments of the walk.
    """
    walk = partial(walk, problem=problem.without_operands(), **options)
    loss, z_part = gradients_in_forward(walk, name, problem.operands)
    return LinearCrossEntropyValue(loss, None, z_part)
