"""The pass over the tokens for chunked linear cross-entropies: chunks, their memory, accumulated gradients.

A chunk's scores are exponentiated in place and never normalised: 1/Z multiplies the [chunk, D] side of both gradient
products instead of the [chunk, V] one. The target's entry is removed and added as a multiple of its weight row, so that
the gradient of a confident row, a small difference, is not lost to rounding. A separate class, `ChunkScores`, computes
the scores and their products.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.head import Head
from lightning_losses.kernels.products import cuda_chunk
from lightning_losses.kernels.terms import Alone, Exchange


def default_chunk(tokens: int, weight: Float[Tensor, "vocabulary width"], full: bool = False) -> int:
    """Tokens in a chunk: one in 25 of them, within bounds that depend on device, dtype and vocabulary.

    A chunk's logits then take 4 % of the whole, 2 % of what plain cross-entropy holds. Larger chunks are faster,
    because each chunk reads the weight once and reads and writes its gradient once; so a chunk takes at least what fits
    in 6.5 MiB.

    Args:
        tokens: N.
        weight: the head's weight.
        full: whether scores are held in float32 even for a half-precision head, together with a teacher's.
    """
    if weight.device.type != "cpu":
        return cuda_chunk(tokens, len(weight), 4 if full else weight.element_size(), weight.device)
    cached = 13 * 2**19 // ((8 if full else weight.element_size()) * max(len(weight), 1))
    half = weight.element_size() < 4
    # A wide half-precision head is bound by memory traffic, so its products gain from more rows.
    least = 256 if half and weight.shape[1] >= 1024 else 104
    if full:
        # A half-precision head also holds the gradient in its own precision.
        least = 96 if half else 128
    return min(max(tokens // 25, cached, least), 512)


class ChunkScores(Protocol):
    """A chunk's scores, computed at construction, which become exponentials and then gradients; and their statistics.

    Attributes:
        picked: each target's score; 0 if it is in another process's part of the head.
        picked_slope: the softcap's slope at the target.
        smooth: ``sum_v w_v l_v`` of each row, if labels are smoothed.
        others: the sum of each row's exponentials without the target.
    """

    picked: Float[Tensor, " rows"]
    picked_slope: Float[Tensor, " rows"] | None
    smooth: Float[Tensor, " rows"] | None
    others: Float[Tensor, " rows"]

    def __init__(
        self,
        walk: "TokenWalk",
        hidden: Float[Tensor, "rows width"],
        target: Int[Tensor, " rows"],
        *,
        shifted: bool,
        want_hidden: bool,
    ) -> None:
        """Compute the scores; exponentiate and sum them too, unless they will be `shifted`."""

    def largest(self) -> Float[Tensor, " rows"]:
        """The largest score of each row without its target."""

    def exponentiate(self, shift: Float[Tensor, " rows"]) -> None:
        """Turn scores into ``exp(l - shift)``, and sum these over the vocabulary without the target."""

    def gather(
        self,
        share: Float[Tensor, " rows"],
        corner: Float[Tensor, " rows"],
        smoothing: float | Tensor,
    ) -> Float[Tensor, "rows width"] | None:
        """Add the gradients of the weight and the bias, and return that of the hidden states.

        Args:
            share: the factor of each row's exponentials.
            corner: the whole derivative by the target's score, without smoothing.
            smoothing: subtracted from every class, times its weight; a number or [rows, 1]. Only used with a softcap;
                otherwise the pass subtracts it.
        """


class TokenWalk:
    """One walk over the tokens: the accumulated gradients of the head, and values that depend on the head alone."""

    def __init__(
        self,
        head: Head,
        exchange: Exchange,
        accum_dtype: torch.dtype | None,
        wanted: tuple[bool, bool, bool],
        chunk: int,
        scores: type[ChunkScores],
    ) -> None:
        self.head, self.exchange, self.chunk, self.scores = head, exchange, chunk, scores
        self.space: Tensor | None = None
        weight, bias = head.weight, head.bias
        half = torch.float32 if weight.dtype == torch.float16 else weight.dtype
        self.want_hidden, want_weight, want_bias = wanted
        self.grad_weight = weight.new_empty(weight.shape, dtype=accum_dtype or half) if want_weight else None
        keeps_bias = want_bias and bias is not None
        self.grad_bias = weight.new_zeros(len(weight), dtype=head.statistics) if keeps_bias else None
        self.first = True
        # Only on a CPU is it free to check the range of a sum.
        self.shifted = not head.on_cpu
        self.mean_row: Tensor | None = None
        self.mean_bias: Tensor | float = 0.0
        if head.terms.label_smoothing and head.terms.softcap is None:
            # Without a softcap the smoothing term is linear in the scores, so the head's weighted mean row gives it.
            self.mean_row, self.mean_bias = head.mean_row()
        self.smooth_sum = weight.new_zeros(weight.shape[1], dtype=head.statistics)

    @property
    def borrowable(self) -> int:
        """Rows whose scores fit into the memory of the weight's gradient, before the first chunk has filled it.

        At most 2^20 hidden-state elements, because copies of a chunk's hidden states take memory too.
        """
        if self.grad_weight is None or not self.head.on_cpu:
            return 0
        width = self.grad_weight.shape[1]
        return min(width * self.grad_weight.element_size() // self.head.dtype.itemsize, 2**20 // max(width, 1))

    @property
    def alone(self) -> bool:
        """Whether this process has the whole head, so that every target is one of its rows."""
        return isinstance(self.exchange, Alone)

    def chunks(self, tokens: int) -> Iterator[slice]:
        """The chunks of the tokens; the first is as large as possible without extra memory.

        The first chunk's scores use the memory of the gradient that replaces them, tile by tile. The remaining tokens
        are divided evenly.
        """
        # A softcap's slopes have no such memory, and all processes must use equal chunks.
        free = self.alone and self.head.terms.softcap is None
        first = min(tokens, max(self.chunk, self.borrowable if free else 0))
        yield slice(0, first)
        left = tokens - first
        even = -(-left // max(-(-left // self.chunk), 1))
        self.chunk = min(-(-even // 16) * 16, self.chunk)
        yield from (slice(start, min(start + self.chunk, tokens)) for start in range(first, tokens, max(self.chunk, 1)))

    def borrows(self, rows: int) -> bool:
        """Whether a chunk's scores use the memory of the weight's gradient."""
        return self.first and rows <= self.borrowable

    def place(self, tile: slice, rows: int) -> Float[Tensor, "rows tile"]:
        """The memory of a tile of a chunk's scores; reused, because new memory would be cleared and scattered."""
        if self.grad_weight is not None and self.borrows(rows):
            own = self.grad_weight[tile].view(self.head.dtype).view(-1)
            return own[: rows * (tile.stop - tile.start)].view(rows, -1)
        return self._own_space()[tile.start * rows : tile.stop * rows].view(rows, tile.stop - tile.start)

    def turned_place(self, rows: int) -> Float[Tensor, "vocabulary rows"]:
        """The memory for a chunk's scores in transposed form, [vocabulary, rows]."""
        if self.grad_weight is not None and self.borrows(rows):
            return self.grad_weight.view(self.head.dtype)[:, :rows]
        return self._own_space()[: len(self.head.weight) * rows].view(-1, rows)

    def _own_space(self) -> Float[Tensor, " entries"]:
        if self.space is None:
            self.space = self.head.weight.new_empty(self.chunk * len(self.head.weight), dtype=self.head.dtype)
        return self.space

    def smooth(self, hidden: Float[Tensor, "rows width"]) -> Float[Tensor, " rows"] | None:
        """``sum_v w_v l_v`` of each row, if labels are smoothed and it needs no pass over the scores."""
        if self.mean_row is None:
            return None
        return hidden.to(self.head.statistics) @ self.mean_row + self.mean_bias

    def own(self, target: Int[Tensor, " rows"]) -> Int[Tensor, " own"]:
        """The rows whose target this process's part of the head holds."""
        if self.alone:
            return torch.arange(len(target), device=target.device)
        return ((target >= 0) & (target < len(self.head.weight))).nonzero().squeeze(1)

    def exponentials(
        self, hidden: Float[Tensor, "rows width"], target: Int[Tensor, " rows"]
    ) -> tuple[ChunkScores, Tensor, Tensor]:
        """A chunk's exponentials, their sum over the vocabulary, and the logsumexp.

        Scores of ordinary size need no shift, which saves two passes. If a chunk's sum leaves the safe range, it is
        scored again, and from then on the largest score is subtracted.
        """
        scores = self._scored(hidden, target)
        if not self.shifted:
            scores.others = self.exchange.total(scores.others)
            sums = scores.others + scores.picked.exp()
            if bool(((sums > 1e-20) & (sums < 1e20)).all()):
                return scores, sums, sums.log()
            self.shifted = True
            del scores
            scores = self._scored(hidden, target)
        shift = torch.maximum(self.exchange.maximum(scores.largest()), scores.picked)
        scores.exponentiate(shift)
        scores.others = self.exchange.total(scores.others)
        sums = scores.others + (scores.picked - shift).exp()
        return scores, sums, sums.log() + shift

    def _scored(self, hidden: Float[Tensor, "rows width"], target: Int[Tensor, " rows"]) -> ChunkScores:
        scores = self.scores(self, hidden, target, shifted=self.shifted, want_hidden=self.want_hidden)
        scores.picked = self.exchange.total(scores.picked)
        if scores.smooth is not None:
            scores.smooth = self.exchange.total(scores.smooth)
        if scores.picked_slope is not None:
            scores.picked_slope = self.exchange.total(scores.picked_slope)
        return scores

    def add_gradients(
        self,
        scores: ChunkScores,
        hidden: Float[Tensor, "rows width"],
        *,
        share: Float[Tensor, " rows"],
        corner: Float[Tensor, " rows"],
        smoothing: float | Tensor,
    ) -> Float[Tensor, "rows width"] | None:
        """Turn a chunk's exponentials into gradients: add those of the head, return those of the hidden states.

        Args:
            scores: the chunk's exponentials, which are overwritten.
            hidden: the chunk's hidden states, in the dtype of the products.
            share, corner, smoothing: as for `ChunkScores.gather`.
        """
        head = self.head
        grad = scores.gather(share, corner, smoothing)
        self.first = False
        if self.mean_row is not None:
            if grad is not None:
                grad.sub_(smoothing * self.mean_row)
            if self.grad_weight is not None:
                self.smooth_sum += (smoothing * hidden.to(head.statistics)).sum(dim=0)
            if self.grad_bias is not None:
                total = smoothing.sum() if isinstance(smoothing, Tensor) and smoothing.ndim else len(hidden) * smoothing
                self.grad_bias -= total / head.terms.temperature * head.smoothing_weight
        return grad

    def finished(self) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the head's weight and bias, after the last chunk."""
        head, weight, bias = self.head, self.grad_weight, self.grad_bias
        if weight is not None:
            if self.first:
                weight.zero_()
            elif self.mean_row is not None:
                for tile in head.tiles:
                    of_class = head.smoothing_weight[tile].unsqueeze(1) / head.terms.temperature
                    weight[tile] -= (of_class * self.smooth_sum).to(weight.dtype)
            # A float16 gradient is rounded only after the upstream gradient, with its loss scale, has multiplied it.
            weight = weight if head.weight.dtype == torch.float16 else weight.to(head.weight.dtype)
        if bias is not None and (bias_of_head := head.bias) is not None:
            bias = bias if bias_of_head.dtype == torch.float16 else bias.to(bias_of_head.dtype)
        return weight, bias
