"""Linear cross-entropy by Triton: products by the GPU's library, one kernel in place on each chunk's logits.

Nothing is read back to the host, and nothing is cleared or copied without need: the first chunk writes the weight's
gradient, later ones add to it.
"""

import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import Operands, Summed, Wanted
from lightning_losses.kernels.cross_entropy.problem import Problem
from lightning_losses.kernels.cross_entropy.rows import Statistics, asked_for
from lightning_losses.kernels.cross_entropy.triton_kernel import cross_entropy_kernel
from lightning_losses.kernels.products import cuda_chunk, multiplied, padded_rows
from lightning_losses.kernels.terms import Alone, Exchange, Terms, scores_of_kept, statistics_dtype
from lightning_losses.numerics.products import accumulate, product_into, spans

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BLOCK, WARPS = 4096, 16
"""Number of classes that a program reads at once, and its warps."""
ENLARGED, LARGEST = 1024.0, 32768.0
"""Factor of float16 gradients in between, whose smallest entries would otherwise underflow, and their largest size."""


class Launch(NamedTuple):
    """The common arguments of all calls of the kernel."""

    weight: Float[Tensor, "vocabulary width"]
    bias: Float[Tensor, " vocabulary"] | None
    terms: Terms
    start: int = 0
    entropy: bool = False
    partial: bool = False

    def __call__(
        self,
        logits: Float[Tensor, "rows vocabulary"],
        target: Int[Tensor, " rows"],
        statistics: Statistics,
        upstream: Statistics | None,
        of_square: Float[Tensor, " rows"] | None = None,
        *,
        known: bool,
    ) -> None:
        """Compute the statistics unless they are `known`; with `upstream`, also overwrite the logits by gradients."""
        terms, vocabulary = self.terms, logits.shape[1]
        if vocabulary == 0:
            # A process whose part of the vocabulary is empty has no score to read.
            if not known:
                statistics.lse.fill_(-torch.inf)
            return
        # An entry for each of 128 threads at least: two that held the same one would read and overwrite it at once.
        block = min(triton.next_power_of_2(max(vocabulary, 128)), 64 if INTERPRETED else BLOCK)
        nothing = statistics.lse
        weights = None
        if terms.label_smoothing:
            weights, of_all = logits.new_ones(vocabulary, dtype=nothing.dtype), terms.smoothing_weight()
            if of_all is not None:
                weights = of_all[self.start :][:vocabulary].to(weights)

        def given(values: Tensor | None) -> Tensor:
            # The kernel reads vectors without strides.
            return nothing if values is None else values.contiguous()

        of = Statistics(nothing, nothing) if upstream is None else upstream
        tempered = terms.temperature != 1.0
        numbers = nothing
        if terms.softcap is not None or tempered:
            # Filled on the device; copying a list there would synchronise.
            numbers = nothing.new_full((2,), terms.softcap or 1.0)
            numbers[1:].fill_(1.0 / terms.temperature)
        with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
            cross_entropy_kernel[(len(logits),)](
                logits,
                given(self.bias),
                numbers,
                target.contiguous(),
                given(weights),
                *map(given, statistics),
                given(of.lse),
                given(of_square),
                given(of.picked),
                given(of.smooth),
                given(of.entropy),
                VOCABULARY=vocabulary,
                STRIDE=logits.stride(0),
                HAS_BIAS=self.bias is not None,
                SOFTCAP=terms.softcap is not None,
                TEMPERED=tempered,
                SMOOTH=terms.label_smoothing > 0,
                ENTROPY=self.entropy,
                STATISTICS=not known,
                GRADIENT=upstream is not None,
                SQUARE=of_square is not None,
                PARTIAL=self.partial,
                COMPUTE=tl.float64 if nothing.dtype == torch.float64 else tl.float32,
                BLOCK=block,
                num_warps=min(max(block // 256, 4), WARPS),
            )


class Gradients:
    """The gradients of a head, accumulated over chunks.

    Gradients of float16 operands are float32, because the caller still multiplies them.
    """

    def __init__(
        self, operands: Operands, wanted: Wanted, accum_dtype: torch.dtype | None = None, partial: bool = False
    ) -> None:
        hidden, weight, bias, _ = operands
        statistics = statistics_dtype(weight)
        half = statistics if weight.dtype == torch.float16 else weight.dtype
        width = statistics if partial else half
        self.weight_of_head = weight
        self.hidden = hidden.new_empty(hidden.shape, dtype=width) if wanted[0] else None
        self.weight = weight.new_empty(weight.shape, dtype=accum_dtype or half) if wanted[1] else None
        self.bias = weight.new_zeros(len(weight), dtype=statistics) if wanted[2] and bias is not None else None
        self.first = True
        self.divisor: Tensor | None = None

    def add(
        self,
        rows: slice,
        hidden: Float[Tensor, "rows width"],
        logits: Float[Tensor, "rows vocabulary"],
        divisor: Float[Tensor, ""] | None = None,
    ) -> None:
        """Add a chunk's part.

        Args:
            rows: the chunk's tokens.
            hidden: their hidden states.
            logits: the gradients with respect to their logits, divided by `divisor`.
            divisor: no less than that of the chunk before; None for 1.
        """
        if divisor is not None and divisor is not self.divisor:
            if self.divisor is not None:
                # At no cost where both are equal.
                self._multiply(self.divisor / divisor)
            self.divisor = divisor
        if self.hidden is not None:
            product_into(self.hidden[rows], logits, self.weight_of_head.t())
            if divisor is not None:
                self.hidden[rows] *= divisor
        if self.weight is not None:
            accumulate(self.weight, logits.t(), hidden.t(), self.first)
        if self.bias is not None:
            self.bias += logits.sum(dim=0, dtype=self.bias.dtype)
        self.first = False

    def _multiply(self, factor: Float[Tensor, ""]) -> None:
        for total in (self.weight, self.bias):
            if total is not None:
                multiplied(total, factor)

    def finished(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """All three gradients; zeros if there was no chunk."""
        if self.first and self.weight is not None:
            self.weight.zero_()
        if self.divisor is not None:
            self._multiply(self.divisor)
        dtype = self.weight_of_head.dtype
        whole = self.weight is None or dtype == torch.float16
        return self.hidden, self.weight if whole or self.weight is None else self.weight.to(dtype), self.bias


def chunks_of(
    operands: Operands, kept: Bool[Tensor, " tokens"] | None, chunk: int | tuple[int, int] | None
) -> Iterator[tuple[slice, Float[Tensor, "rows width"], Float[Tensor, "rows vocabulary"]]]:
    """Each chunk's slice of the tokens, hidden states (0 if ignored) and logits; the logits' memory is reused."""
    hidden, weight, *_ = operands
    tokens, vocabulary = len(hidden), len(weight)
    # A tuple, tiles of the vocabulary, was refused before.
    given = chunk if isinstance(chunk, int) else cuda_chunk(tokens, vocabulary, weight.element_size(), weight.device)
    step = min(given, max(tokens, 1))
    place = padded_rows(weight, step, vocabulary)
    for rows in spans(tokens, step) if tokens else ():
        e = hidden[rows]
        if kept is not None:
            # An ignored row may hold NaN; as zeros its share of the gradient is 0.
            e = torch.where(kept[rows].unsqueeze(1), e, 0.0)
        yield rows, e, torch.mm(e, weight.t(), out=place[: len(e)])


def sums_and_gradients(
    operands: Operands, *, problem: Problem, wanted: Wanted, exchange: Exchange | None = None, start: int = 0
) -> Summed:
    """As `chunked.sums_and_gradients`."""
    _, weight, bias, target = operands
    assert target is not None
    terms, scale, z_scale, kept = problem.terms, problem.scale, problem.z_scale, problem.kept
    statistics = Statistics.zeros(operands, asked_for(terms))
    counts = torch.ones_like(statistics.lse) if kept is None else kept.to(statistics.lse.dtype)
    enlarged = weight.dtype == torch.float16
    unit, factor = (ENLARGED, scale / ENLARGED) if enlarged else (scale, 1.0)
    of_square = None
    if isinstance(z_scale, Tensor) or z_scale:
        of_square = counts * (2 * z_scale * (ENLARGED / scale if enlarged else 1.0))
    row_weight = terms.row_weight(target + start if start else target)
    launch = Launch(weight, bias, terms, start, partial=exchange is not None)
    gradients = Gradients(operands, wanted, problem.accum_dtype, partial=exchange is not None)
    # Two launches, if the gradient depends on other processes' statistics or on the row function, or if the statistics
    # must be known to keep it within float16.
    apart = exchange is not None or terms.row_function is not None or (enlarged and of_square is not None)
    everywhere = exchange or Alone()

    def upstream(rows: slice) -> Statistics:
        count = counts[rows] * unit
        of_target = terms.target_factor(
            statistics.lse[rows],
            scores_of_kept(statistics.picked[rows], statistics.lse[rows], None if kept is None else kept[rows]),
            row_weight[rows] if isinstance(row_weight, Tensor) else row_weight,
        )
        smooth = -terms.smoothing * count if terms.label_smoothing else None
        return Statistics(count * terms.probability_factor(of_target), -count * of_target, smooth)

    of_all = upstream(slice(None)) if any(wanted) and not apart else None
    divisor = None
    if enlarged and of_all is not None and len(counts):
        divisor = _power_above(of_all, terms, LARGEST).clamp(min=1.0)
        of_all = of_all.divided(divisor)
    for rows, e, logits in chunks_of(operands, kept, problem.chunk):
        of_rows = statistics.at(rows)
        squares = None if of_square is None else of_square[rows]
        if of_all is None:
            launch(logits, target[rows], of_rows, None, known=False)
            _combine(of_rows, everywhere)
            if not any(wanted):
                continue
            fed, known = upstream(rows), True
            if squares is not None:
                fed = fed._replace(lse=fed.lse + squares * of_rows.lse)
                squares = None
        else:
            fed, known = of_all.at(rows), False
        if enlarged and apart:
            needed = _power_above(fed, terms, LARGEST).clamp(min=1.0)
            divisor = needed if divisor is None else torch.maximum(needed, divisor)
            fed = fed.divided(divisor)
        launch(logits, target[rows], of_rows, fed, squares, known=known)
        gradients.add(rows, e, logits, divisor)
    picked = scores_of_kept(statistics.picked, statistics.lse, kept)
    losses = terms.cross_entropy(statistics.lse, picked, statistics.smooth, row_weight)
    z_part = z_scale * (counts * statistics.lse.square()).sum()
    grad_hidden, grad_weight, grad_bias = gradients.finished()
    if grad_hidden is not None and exchange is not None:
        grad_hidden = exchange.total(grad_hidden)
    return Summed(scale * (counts * losses).sum() + z_part, z_part, grad_hidden, grad_weight, grad_bias, factor)


def _power_above(upstream: Statistics, terms: Terms, largest: float) -> Float[Tensor, ""]:
    """The power of 2 above the size of a score's gradient, relative to `largest`; computed on the device."""
    size = upstream.lse.abs() + upstream.picked.abs()
    if upstream.smooth is not None:
        weights = terms.smoothing_weight()
        size = size + upstream.smooth.abs() * (1.0 if weights is None else weights.amax())
    if upstream.entropy is not None:
        # Of a probability p of V classes it is p (log p + entropy).
        size = size + upstream.entropy.abs() * (1.0 + math.log(terms.classes))
    power = (size.amax() / (largest * terms.temperature)).log2().ceil()
    # Without a gradient it would be -inf.
    return power.clamp(min=-100.0).exp2()


def _combine(statistics: Statistics, exchange: Exchange) -> None:
    """A chunk's statistics over all processes' parts of the vocabulary, in place."""
    if isinstance(exchange, Alone):
        return
    largest = exchange.maximum(statistics.lse)
    anchor = largest.masked_fill(largest == -torch.inf, 0.0)
    statistics.lse.copy_(exchange.total((statistics.lse - anchor).exp()).log() + anchor)
    statistics.picked.copy_(exchange.total(statistics.picked))
    if statistics.smooth is not None:
        statistics.smooth.copy_(exchange.total(statistics.smooth))


class TritonRows(NamedTuple):
    """The two walks for per-row gradients."""

    problem: Problem

    @property
    def asked(self) -> tuple[bool, bool, bool, bool]:
        """Which statistics are computed."""
        return asked_for(self.problem.terms, self.problem.entropy)

    def statistics(self, operands: Operands) -> Statistics:
        """The statistics of each row."""
        statistics = Statistics.zeros(operands, self.asked)
        for rows, _, logits in chunks_of(operands, self.problem.kept, self.problem.chunk):
            self._launch(operands, rows, logits, statistics, None)
        return statistics

    def gradients(
        self, operands: Operands, statistics: Statistics, upstream: Statistics, wanted: Wanted
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients, from scores computed again."""
        gradients = Gradients(operands, wanted, self.problem.accum_dtype)
        divisor = None
        if operands.weight.dtype == torch.float16 and len(operands.hidden):
            divisor = _power_above(upstream, self.problem.terms, 2 * ENLARGED)
            upstream = upstream.divided(divisor)
        for rows, e, logits in chunks_of(operands, self.problem.kept, self.problem.chunk):
            self._launch(operands, rows, logits, statistics, upstream.at(rows))
            gradients.add(rows, e, logits)
        return tuple(  # type: ignore[return-value]
            None
            if gradient is None or operand is None
            else (gradient if divisor is None else gradient.mul_(divisor)).to(operand.dtype)
            for gradient, operand in zip(gradients.finished(), operands[:3], strict=True)
        )

    def _launch(
        self, operands: Operands, rows: slice, logits: Tensor, statistics: Statistics, upstream: Statistics | None
    ) -> None:
        assert operands.target is not None
        launch = Launch(operands.weight, operands.bias, self.problem.terms, entropy=self.problem.entropy)
        launch(logits, operands.target[rows], statistics.at(rows), upstream, known=upstream is not None)
