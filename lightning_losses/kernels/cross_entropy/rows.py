"""Statistics of each row of a head's scores, differentiable; backward makes the scores again: four products.

What a row's loss is made of is known to autograd: the loss, its z-loss and its reduction are torch's own operations on
these statistics, and each statistic receives a gradient of any sign.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import Operands, Wanted, once, refuse_second_order
from lightning_losses.kernels.cross_entropy.problem import LinearCrossEntropyValue, Problem, of_rows
from lightning_losses.kernels.terms import Terms, statistics_dtype


class Statistics(NamedTuple):
    """Of each row, over its (softcapped) scores over the temperature; or the gradients by them.

    Attributes:
        lse: logsumexp.
        picked: the target's score.
        smooth: ``sum_v w_v l_v``; None where labels are not smoothed.
        entropy: ``lse - sum_v p_v l_v``; None where it is not asked for.
    """

    lse: Float[Tensor, " rows"]
    picked: Float[Tensor, " rows"]
    smooth: Float[Tensor, " rows"] | None = None
    entropy: Float[Tensor, " rows"] | None = None

    @classmethod
    def zeros(cls, operands: Operands, asked: Sequence[bool]) -> "Statistics":
        """Room for those that are asked for."""
        lse = operands.hidden.new_zeros(len(operands.hidden), dtype=statistics_dtype(operands.weight))
        return cls(*(torch.zeros_like(lse) if there else None for there in asked))  # type: ignore[arg-type]

    def at(self, rows: slice) -> "Statistics":
        """Those of some rows."""
        return Statistics(*(None if values is None else values[rows].contiguous() for values in self))  # type: ignore[arg-type]


def asked_for(terms: Terms, entropy: bool = False) -> tuple[bool, bool, bool, bool]:
    """Which statistics these terms, and who asks for entropies, need."""
    return True, True, terms.label_smoothing > 0, entropy


class RowWalk(Protocol):
    """Who makes the scores, twice."""

    @property
    def asked(self) -> tuple[bool, bool, bool, bool]:
        """Which statistics there are."""

    def statistics(self, operands: Operands) -> Statistics:
        """The first walk."""

    def gradients(
        self, operands: Operands, statistics: Statistics, upstream: Statistics, wanted: Wanted
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The second: the gradients of hidden states, weight and bias, in their dtypes.

        Args:
            operands: as in the first.
            statistics: what the first gave.
            upstream: the gradients by it.
            wanted: which gradients are wanted.
        """


def by_rows(problem: Problem, walk: RowWalk, name: str) -> LinearCrossEntropyValue:
    """The value of a problem from rows' statistics; `name` is what the refusal of higher derivatives says."""
    return of_rows(problem, *_StatisticsOfRows.apply(*problem.operands, walk, name))


class _StatisticsOfRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "rows width"],
        weight: Float[Tensor, "vocabulary width"],
        bias: Float[Tensor, " vocabulary"] | None,
        target: Int[Tensor, " rows"],
        walk: RowWalk,
        name: str,
    ) -> tuple[Tensor | None, ...]:
        operands = Operands(hidden, weight, bias, target)
        statistics = Statistics(*once(lambda: walk.statistics(operands), walk.asked, len(hidden)))
        ctx.save_for_backward(hidden, weight, bias, target, *statistics)
        ctx.walk, ctx.name = walk, name
        return tuple(statistics)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order(ctx.name)
        operands, statistics = Operands(*ctx.saved_tensors[:4]), Statistics(*ctx.saved_tensors[4:])
        wanted = tuple(ctx.needs_input_grad[:3])
        gradients = ctx.walk.gradients(operands, statistics, Statistics(*upstream), wanted)
        return (*gradients, None, None, None)
