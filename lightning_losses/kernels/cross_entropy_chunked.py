"""Linear cross-entropy by chunks of tokens, with the gradients made in the forward pass: three products, not four.

A chunk's scores are exponentiated in place and never normalised: 1/Z multiplies the [chunk, D] side of both gradient
products instead of the [chunk, V] one. The target's entry is taken out and added as a multiple of its weight row, so
that the gradient of a confident row, a small difference, does not drown in rounding.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.head import Head, locate
from lightning_losses.kernels.products import accumulate, exponentiate, product, row_sums
from lightning_losses.kernels.terms import Alone, Exchange, Terms


def default_chunk(tokens: int, weight: Float[Tensor, "vocabulary width"], full: bool = False) -> int:
    """Tokens in a chunk: one in 25 of them, within bounds that depend on device, dtype and vocabulary.

    A chunk's logits then take 4 % of the whole, 2 % of what plain cross-entropy holds. Larger chunks are faster, since
    the weight is read once a chunk and its gradient read and written once: what fits in 6.5 MiB is always taken.

    Args:
        tokens: N.
        weight: the head's weight.
        full: whether a chunk's scores are held in float32 even of a half-precision head, and beside a teacher's.
    """
    if weight.device.type != "cpu":
        power = 1 << max(tokens // 32, 1).bit_length() - 1
        return min(max(power, 1024), 4096)
    cached = 13 * 2**19 // ((8 if full else weight.element_size()) * max(len(weight), 1))
    half = weight.element_size() < 4
    # A wide head in half precision is bound by its own traffic: its products gain most from more rows.
    least = 256 if half and weight.shape[1] >= 1024 else 104
    if full:
        # Beside a half-precision head's full scores their gradient in its own precision is held.
        least = 96 if half else 128
    return min(max(tokens // 25, cached, least), 512)


class Scores:
    """A chunk's scores, soon exponentials, soon gradients, tile by tile; and what is read off them on the way.

    Attributes:
        tiles: [rows, tile] each.
        slopes: the softcap's slopes of each, if there is one.
        hits: for each tile, the rows whose target lies in it, and the column where.
        picked: each target's score; 0 where it lies in another process's part of the head.
        picked_slope: the softcap's slope there.
        smooth: ``sum_v w_v l_v`` of each row, where labels are smoothed.
        others: the sum of each row's exponentials, the target's apart.
        drawn: their product with the head's weight, where it is made on the way.
    """

    def __init__(
        self,
        pass_: "Pass",
        hidden: Float[Tensor, "rows width"],
        target: Int[Tensor, " rows"],
        *,
        shifted: bool,
        want_hidden: bool,
    ) -> None:
        head = pass_.head
        self.tiles: list[Tensor] = []
        self.slopes: list[Tensor] = []
        self.hits = pass_.hits(target)
        self.picked = hidden.new_zeros(len(hidden), dtype=head.statistics)
        self.picked_slope = torch.zeros_like(self.picked) if head.terms.softcap is not None else None
        self.smooth = torch.zeros_like(self.picked) if head.terms.label_smoothing else None
        self.others = torch.zeros_like(self.picked)
        # Without a shift a tile of the weight serves both products while it is in the cache.
        draws = want_hidden and not shifted and head.terms.softcap is None
        self.drawn = torch.zeros_like(hidden, dtype=head.statistics) if draws else None
        for tile, (rows, columns) in zip(head.tiles, self.hits, strict=True):
            place = pass_.place(tile, len(hidden))
            scores, slope = head.scores(hidden, tile, out=place)
            self.tiles.append(place)
            self.picked[rows] = scores[rows, columns].to(head.statistics)
            if slope is not None and self.picked_slope is not None:
                self.slopes.append(slope)
                self.picked_slope[rows] = slope[rows, columns].to(head.statistics)
                if self.smooth is not None:
                    self.smooth += (scores * head.class_weight[tile]).sum(dim=1)
            scores[rows, columns] = -torch.inf
            if not shifted:
                self.others += row_sums(exponentiate(scores, out=place), head.statistics)
            elif scores is not place:
                place.copy_(scores)
            if self.drawn is not None:
                self.drawn += product(place, head.rows(tile).t())
        if pass_.mean_row is not None:
            self.smooth = hidden.to(head.statistics) @ pass_.mean_row + pass_.mean_bias

    def largest(self) -> Float[Tensor, " rows"]:
        """The largest score of each row, the target's apart."""
        nothing = torch.full_like(self.picked, -torch.inf)
        found = [tile.amax(dim=1).to(nothing.dtype) if tile.shape[1] else nothing for tile in self.tiles]
        return torch.stack(found).amax(dim=0)

    def exponentiate(self, shift: Float[Tensor, " rows"]) -> None:
        """Turn scores into ``exp(l - shift)`` in place, and sum them over the vocabulary but for the target."""
        for tile in self.tiles:
            self.others += row_sums(exponentiate(tile.sub_(shift.unsqueeze(1))), self.others.dtype)


class Pass:
    """One walk over the tokens: the gradients of the head that gather, and what depends on the head alone."""

    def __init__(
        self,
        head: Head,
        exchange: Exchange,
        accum_dtype: torch.dtype | None,
        want_weight: bool,
        want_bias: bool,
        chunk: int,
    ) -> None:
        self.head, self.exchange, self.chunk = head, exchange, chunk
        self.space: Tensor | None = None
        weight, bias = head.weight, head.bias
        half = torch.float32 if weight.dtype == torch.float16 else weight.dtype
        self.grad_weight = weight.new_empty(weight.shape, dtype=accum_dtype or half) if want_weight else None
        keeps_bias = want_bias and bias is not None
        self.grad_bias = weight.new_zeros(len(weight), dtype=head.statistics) if keeps_bias else None
        self.first = True
        # Reading the range of a sum back is free on a CPU alone.
        self.shifted = not head.on_cpu
        self.mean_row: Tensor | None = None
        self.mean_bias: Tensor | float = 0.0
        if head.terms.label_smoothing and head.terms.softcap is None:
            # Without a softcap the smoothing term is linear in the scores: the head's weighted mean row does it.
            self.mean_row, self.mean_bias = head.mean_row()
        self.smooth_sum = weight.new_zeros(weight.shape[1], dtype=head.statistics)

    @property
    def borrowable(self) -> int:
        """Rows whose scores fit into the memory of the weight's gradient, before the first chunk has filled it.

        Not more than a mebi of their own entries: copies of a chunk's hidden states are memory too.
        """
        if self.grad_weight is None or not self.head.on_cpu:
            return 0
        width = self.grad_weight.shape[1]
        return min(width * self.grad_weight.element_size() // self.head.dtype.itemsize, 2**20 // max(width, 1))

    def chunks(self, tokens: int) -> Iterator[slice]:
        """The tokens by chunks, of which the first is as large as costs no memory.

        Scores fill the place of the gradient that they become, tile by tile. What is left is cut evenly.
        """
        # Slopes have no such place, and processes must agree on the chunks whatever their dtypes.
        free = isinstance(self.exchange, Alone) and self.head.terms.softcap is None
        first = min(tokens, max(self.chunk, self.borrowable if free else 0))
        yield slice(0, first)
        left = tokens - first
        even = -(-left // max(-(-left // self.chunk), 1))
        self.chunk = min(-(-even // 16) * 16, self.chunk)
        yield from (slice(start, min(start + self.chunk, tokens)) for start in range(first, tokens, max(self.chunk, 1)))

    def place(self, tile: slice, rows: int) -> Float[Tensor, "rows tile"]:
        """Where a tile of a chunk's scores lies: memory asked for anew would be cleared anew, and scattered."""
        if self._borrows(rows) and self.grad_weight is not None:
            own = self.grad_weight[tile].view(self.head.dtype).view(-1)
            return own[: rows * (tile.stop - tile.start)].view(rows, -1)
        if self.space is None:
            self.space = self.head.weight.new_empty(self.chunk * len(self.head.weight), dtype=self.head.dtype)
        return self.space[tile.start * rows : tile.stop * rows].view(rows, tile.stop - tile.start)

    def _borrows(self, rows: int) -> bool:
        return self.first and rows <= self.borrowable

    def hits(self, target: Int[Tensor, " rows"]) -> list[tuple[Tensor, Tensor]]:
        """For each tile, the rows whose target lies in it, and the column where."""
        tiles = self.head.tiles
        if len(tiles) == 1 and isinstance(self.exchange, Alone):
            return [(torch.arange(len(target), device=target.device), target)]
        return locate(target, tiles)

    def exponentials(
        self, hidden: Float[Tensor, "rows width"], target: Int[Tensor, " rows"], want_hidden: bool
    ) -> tuple[Scores, Tensor, Tensor]:
        """A chunk's exponentials, their sum over the vocabulary, and the logsumexp.

        Scores of ordinary size need no shift, which saves two passes. A chunk whose sum leaves the comfortable range
        is scored again, and from then on the largest score is subtracted.
        """
        scores = self._scored(hidden, target, want_hidden)
        if not self.shifted:
            scores.others = self.exchange.total(scores.others)
            sums = scores.others + scores.picked.exp()
            if bool(((sums > 1e-20) & (sums < 1e20)).all()):
                return scores, sums, sums.log()
            self.shifted = True
            del scores
            scores = self._scored(hidden, target, want_hidden)
        shift = torch.maximum(self.exchange.maximum(scores.largest()), scores.picked)
        scores.exponentiate(shift)
        scores.others = self.exchange.total(scores.others)
        sums = scores.others + (scores.picked - shift).exp()
        return scores, sums, sums.log() + shift

    def _scored(self, hidden: Float[Tensor, "rows width"], target: Int[Tensor, " rows"], want_hidden: bool) -> Scores:
        scores = Scores(self, hidden, target, shifted=self.shifted, want_hidden=want_hidden)
        scores.picked = self.exchange.total(scores.picked)
        if scores.smooth is not None:
            scores.smooth = self.exchange.total(scores.smooth)
        if scores.picked_slope is not None:
            scores.picked_slope = self.exchange.total(scores.picked_slope)
        return scores

    def add_gradients(
        self,
        scores: Scores,
        hidden: Float[Tensor, "rows width"],
        target: Int[Tensor, " rows"],
        *,
        share: Float[Tensor, " rows"],
        corner: Float[Tensor, " rows"],
        smoothing: float | Tensor,
        want_hidden: bool,
    ) -> Float[Tensor, "rows width"] | None:
        """Turn a chunk's exponentials into gradients: the head's are added up, the hidden states' are returned.

        Args:
            scores: the chunk's exponentials; used up.
            hidden: the chunk, in the dtype of the products.
            target: the targets' rows of this head; anything outside it is another process's.
            share: what multiplies a row's exponentials.
            corner: the whole derivative by the target's score, smoothing apart.
            smoothing: what every class, times its weight, has subtracted.
            want_hidden: whether the hidden states need their gradient.
        """
        head = self.head
        # The softcap's slope belongs to each entry, so that nothing can be left to the [chunk, D] side.
        whole = head.terms.softcap is not None
        side = torch.empty_like(hidden.t(), memory_format=torch.contiguous_format)
        torch.mul(hidden.t(), 1 if whole else share, out=side)
        grad, drawn = scores.drawn, scores.drawn is not None
        if want_hidden and grad is None:
            grad = torch.zeros_like(hidden, dtype=head.statistics)
        # Backwards, since the last tiles are still in the cache.
        for number in reversed(range(len(head.tiles))):
            tile, g = head.tiles[number], scores.tiles[number]
            if whole:
                g.mul_(share.unsqueeze(1))
                if head.terms.label_smoothing:
                    g.sub_(smoothing * head.class_weight[tile])
                g.mul_(scores.slopes[number])
            if grad is not None and not drawn:
                grad.add_(product(g, head.rows(tile).t()))
            if self.grad_bias is not None:
                self.grad_bias[tile] += g.sum(dim=0, dtype=head.statistics) if whole else g.t() @ share.to(g.dtype)
            if self.grad_weight is not None and self._borrows(len(hidden)):
                # The scores lie where their product goes.
                self.grad_weight[tile] = product(g.t(), side)
            elif self.grad_weight is not None:
                accumulate(self.grad_weight[tile], g.t(), side, self.first)
        self.first = False
        if grad is not None and not whole:
            grad.mul_(share.unsqueeze(1))
        here = torch.cat([rows for rows, _ in scores.hits])
        if self.grad_bias is not None:
            self.grad_bias.index_add_(0, target[here], corner[here])
        # The targets' own entries; a few at a time, since a gathered row is memory too.
        for part in torch.split(here, 128):
            own, of_corner = target[part], corner[part].unsqueeze(1)
            if grad is not None:
                grad.index_add_(0, part, of_corner * head.weight[own])
            if self.grad_weight is not None:
                self.grad_weight.index_add_(0, own, (of_corner * hidden[part]).to(self.grad_weight.dtype))
        if self.mean_row is not None:
            if grad is not None:
                grad.sub_(smoothing * self.mean_row)
            if self.grad_weight is not None:
                self.smooth_sum += smoothing * hidden.sum(dim=0, dtype=head.statistics)
            if self.grad_bias is not None:
                self.grad_bias -= len(hidden) * smoothing * head.class_weight
        return grad

    def finished(self) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the head's weight and bias, after the last chunk."""
        head, weight, bias = self.head, self.grad_weight, self.grad_bias
        if weight is not None:
            if self.first:
                weight.zero_()
            elif self.mean_row is not None:
                for tile in head.tiles:
                    weight[tile] -= (head.class_weight[tile].unsqueeze(1) * self.smooth_sum).to(weight.dtype)
            weight = weight.to(head.weight.dtype)
        if bias is not None and head.bias is not None:
            bias = bias.to(head.bias.dtype)
        return weight, bias


class Sums(NamedTuple):
    """The scaled sums over rows, of cross-entropy and of ``lse^2``, and the gradients of their total."""

    cross_entropy: Float[Tensor, ""]
    square: Float[Tensor, ""]
    grad_hidden: Tensor | None
    grad_weight: Tensor | None
    grad_bias: Tensor | None


def sums_and_gradients(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, " vocabulary"] | None,
    target: Int[Tensor, " tokens"],
    terms: Terms,
    *,
    row_weight: float | Float[Tensor, " tokens"],
    scale: float | Tensor,
    z_scale: float | Tensor,
    wanted: tuple[bool, bool, bool],
    chunk: int | None = None,
    accum_dtype: torch.dtype | None = None,
    exchange: Exchange | None = None,
    start: int = 0,
) -> Sums:
    """``scale sum_i ce_i`` and ``z_scale sum_i lse_i^2`` over rows of which none is ignored, with their gradients.

    Args:
        hidden: [N, D].
        weight: [V, D], or this process's rows of it.
        bias: [V] or None.
        target: [N] row of `weight`; outside [0, V) where another process holds it.
        terms: label smoothing, softcap and class weights.
        row_weight: the class weight of each row's target.
        scale: multiplies the cross-entropies.
        z_scale: multiplies the squared logsumexps.
        wanted: which of hidden, weight and bias need a gradient.
        chunk: tokens at once; by default `default_chunk`.
        accum_dtype: what the weight's gradient gathers in; by default its own dtype, float32 for float16.
        exchange: combines rows' statistics with the processes that hold the rest of the vocabulary.
        start: the first of the vocabulary's entries that `weight` holds.
    """
    head = Head(weight, bias, terms, start)
    step = min(chunk or default_chunk(len(hidden), weight), max(len(hidden), 1))
    walk = Pass(head, exchange or Alone(), accum_dtype, wanted[1], wanted[2], step)
    grad_hidden = (
        torch.zeros(hidden.shape, device=hidden.device, dtype=hidden.dtype if exchange is None else head.statistics)
        if wanted[0]
        else None
    )
    cross_entropy = hidden.new_zeros((), dtype=head.statistics)
    square = torch.zeros_like(cross_entropy)

    def add(rows: slice) -> None:
        # A function, so that all it makes is gone when the next chunk asks for memory.
        weight_of = row_weight[rows] if isinstance(row_weight, Tensor) else row_weight
        e = hidden[rows].to(head.dtype)
        scores, sums, lse = walk.exponentials(e, target[rows], wanted[0])
        cross_entropy.add_(scale * terms.cross_entropy(lse, scores.picked, scores.smooth, weight_of).sum())
        square.add_(z_scale * lse.square().sum())
        if not any(wanted):
            return
        factor = scale * terms.probability_factor(weight_of) + 2 * z_scale * lse
        # factor p_y - onehot, as two terms of which the second has no cancellation.
        onehot = scale * (1 - terms.label_smoothing) * weight_of
        corner = (factor - onehot) * (scores.picked - lse).exp() - onehot * scores.others / sums
        if scores.picked_slope is not None:
            corner = corner * scores.picked_slope
        grad = walk.add_gradients(
            scores,
            e,
            target[rows],
            share=factor / sums,
            corner=corner,
            smoothing=scale * (terms.label_smoothing / terms.classes),
            want_hidden=wanted[0],
        )
        if grad_hidden is not None and grad is not None:
            grad_hidden[rows] = grad

    for rows in walk.chunks(len(hidden)) if len(hidden) else ():
        add(rows)
    if grad_hidden is not None and exchange is not None:
        grad_hidden = exchange.total(grad_hidden).to(hidden.dtype)
    return Sums(cross_entropy, square, grad_hidden, *walk.finished())


class ChunkedCrossEntropy(torch.autograd.Function):
    """Autograd's side of `sums_and_gradients`: the backward pass hands out what the forward pass made."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        terms: Terms,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the z-loss's share of it, which carries no gradient."""
        made = sums_and_gradients(hidden, weight, bias, target, terms, **options)
        ctx.made, ctx.terms, ctx.options = made[2:], terms, options
        ctx.save_for_backward(hidden, weight, bias, target)
        ctx.mark_non_differentiable(made.square)
        return made.cross_entropy + made.square, made.square

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Each gradient times the upstream one; given away in the first backward pass, made again in a later one."""
        refuse_second_order("chunked")
        hidden, weight, bias, target = ctx.saved_tensors
        made, ctx.made = ctx.made, None
        if made is None:
            made = sums_and_gradients(hidden, weight, bias, target, ctx.terms, **ctx.options)[2:]
        return (*scaled(made, upstream[0]), None, None, None)


def scaled(gradients: tuple[Tensor | None, ...], upstream: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
    """Gradients times the upstream one, in place; untouched where it is known to be 1."""
    if upstream.device.type == "cpu" and float(upstream) == 1.0:
        return gradients
    return tuple(None if gradient is None else gradient.mul_(upstream) for gradient in gradients)


def refuse_second_order(impl: str) -> None:
    """Raise ``RuntimeError`` in a backward pass that is to be differentiated itself."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"linear_cross_entropy: create_graph=True came through impl='{impl}', which has first "
            "derivatives only; use impl='reference' for higher ones."
        )
