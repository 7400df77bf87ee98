"""Differentiable statistics of each row of a head's scores; backward computes the scores again: four products.

Autograd handles everything after the statistics: the loss, its z-loss and its reduction are ordinary torch operations
on them. Each statistic may receive a gradient of any sign.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import Operands, Wanted, once, refuse_second_order
from lightning_losses.kernels.cross_entropy.problem import LinearCrossEntropyValue, Problem, of_rows
from lightning_losses.kernels.terms import Terms, statistics_dtype
from lightning_losses.numerics.derivatives import refuse_transforms


class Statistics(NamedTuple):
    """Statistics of each row's (softcapped) scores divided by the temperature; or the gradients with respect to these.

    Attributes:
        lse: logsumexp.
        picked: the target's score.
        smooth: ``sum_v w_v l_v``; None if labels are not smoothed.
        entropy: ``lse - sum_v p_v l_v``; None unless requested.
    """

    lse: Float[Tensor, " rows"]
    picked: Float[Tensor, " rows"]
    smooth: Float[Tensor, " rows"] | None = None
    entropy: Float[Tensor, " rows"] | None = None

    @classmethod
    def zeros(cls, operands: Operands, asked: Sequence[bool]) -> "Statistics":
        """Memory for the requested statistics."""
        lse = operands.hidden.new_zeros(len(operands.hidden), dtype=statistics_dtype(operands.weight))
        return cls(*(torch.zeros_like(lse) if there else None for there in asked))  # type: ignore[arg-type]

    def at(self, rows: slice) -> "Statistics":
        """The statistics of some rows."""
        return Statistics(*(None if values is None else values[rows].contiguous() for values in self))  # type: ignore[arg-type]

    def divided(self, by: Float[Tensor, ""]) -> "Statistics":
        """Each statistic divided by a number."""
        return Statistics(*(None if values is None else values / by for values in self))  # type: ignore[arg-type]


def asked_for(terms: Terms, entropy: bool = False) -> tuple[bool, bool, bool, bool]:
    """Which statistics these terms and the options need."""
    return True, True, terms.label_smoothing > 0, entropy


class RowWalk(Protocol):
    """The interface of a walk: it computes the scores twice."""

    @property
    def asked(self) -> tuple[bool, bool, bool, bool]:
        """Which statistics are computed."""

    def statistics(self, operands: Operands) -> Statistics:
        """The first walk."""

    def gradients(
        self, operands: Operands, statistics: Statistics, upstream: Statistics, wanted: Wanted
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The second pass: the gradients of hidden states, weight and bias, in their dtypes.

        Args:
            operands: as in the first pass.
            statistics: the result of the first pass.
            upstream: the gradients with respect to the statistics.
            wanted: which gradients are wanted.
        """


def by_rows(problem: Problem, walk: RowWalk, name: str) -> LinearCrossEntropyValue:
    """The value of a problem from rows' statistics; `name` is used in the error for higher derivatives."""
    refuse_transforms(f"linear_cross_entropy: impl={name!r}", "impl='reference', or the loss itself its logits")
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
        # Within a region of autocast the backward pass would multiply in another precision than the forward one.
        with torch.autocast(operands.hidden.device.type, enabled=False):
            gradients = ctx.walk.gradients(operands, statistics, Statistics(*upstream), wanted)
        return (*gradients, None, None, None)
