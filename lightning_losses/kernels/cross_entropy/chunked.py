"""Linear cross-entropy by chunks of tokens, with gradients computed in the forward pass: three products, not four.

The scores of a chunk are processed in tiles of the vocabulary, on any device. `walk` explains how a chunk's
exponentials become gradients; `avx512` computes the scores in C++.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import Operands, Summed, Wanted
from lightning_losses.kernels.cross_entropy.problem import (
    Impl,
    Implementation,
    LinearCrossEntropyValue,
    Problem,
    of_sums,
    refuse_tiles,
)
from lightning_losses.kernels.cross_entropy.walk import ChunkScores, TokenWalk, default_chunk
from lightning_losses.kernels.head import Head, locate
from lightning_losses.kernels.terms import Alone, Exchange, scores_of_kept
from lightning_losses.numerics.products import accumulate, exponentiate, product, row_sums


class TiledScores:
    """A chunk's `ChunkScores`, in tiles of the vocabulary.

    Attributes:
        tiles: [rows, tile] each: first scores, then exponentials, then gradients.
        slopes: the softcap's slopes of each tile, if there is a softcap.
        hits: for each tile, the rows whose target is in it, and the target's column.
        drawn: the product of the exponentials with the head's weight, if it is computed along with them.
    """

    def __init__(
        self,
        walk: TokenWalk,
        hidden: Float[Tensor, "rows width"],
        target: Int[Tensor, " rows"],
        *,
        shifted: bool,
        want_hidden: bool,
    ) -> None:
        head = walk.head
        self.walk, self.hidden, self.target, self.want_hidden = walk, hidden, target, want_hidden
        self.tiles: list[Tensor] = []
        self.slopes: list[Tensor] = []
        whole = len(head.tiles) == 1 and walk.alone
        self.hits = [(walk.own(target), target)] if whole else locate(target, head.tiles)
        self.picked = hidden.new_zeros(len(hidden), dtype=head.statistics)
        self.picked_slope = torch.zeros_like(self.picked) if head.terms.softcap is not None else None
        self.smooth = walk.smooth(hidden)
        if head.terms.label_smoothing and self.smooth is None:
            self.smooth = torch.zeros_like(self.picked)
        self.others = torch.zeros_like(self.picked)
        # Without a shift both products can use a tile of the weight while it is in the cache.
        draws = want_hidden and not shifted and head.terms.softcap is None
        self.drawn = torch.zeros_like(hidden, dtype=head.statistics) if draws else None
        for tile, (rows, columns) in zip(head.tiles, self.hits, strict=True):
            place = walk.place(tile, len(hidden))
            scores, slope = head.scores(hidden, tile, out=place)
            self.tiles.append(place)
            self.picked[rows] = scores[rows, columns].to(head.statistics)
            if slope is not None and self.picked_slope is not None:
                self.slopes.append(slope)
                self.picked_slope[rows] = slope[rows, columns].to(head.statistics)
                if self.smooth is not None:
                    self.smooth += (scores * head.smoothing_weight[tile]).sum(dim=1)
            scores[rows, columns] = -torch.inf
            if not shifted:
                self.others += row_sums(exponentiate(scores, out=place), head.statistics)
            elif scores is not place:
                place.copy_(scores)
            if self.drawn is not None:
                self.drawn += product(place, head.rows(tile).t())

    def largest(self) -> Float[Tensor, " rows"]:
        """The largest score of each row without its target."""
        nothing = torch.full_like(self.picked, -torch.inf)
        largest = [tile.amax(dim=1).to(nothing.dtype) if tile.shape[1] else nothing for tile in self.tiles]
        return torch.stack(largest).amax(dim=0)

    def exponentiate(self, shift: Float[Tensor, " rows"]) -> None:
        """Turn scores into ``exp(l - shift)`` in place, and sum these over the vocabulary without the target."""
        for tile in self.tiles:
            self.others += row_sums(exponentiate(tile.sub_(shift.unsqueeze(1))), self.others.dtype)

    def gather(
        self,
        share: Float[Tensor, " rows"],
        corner: Float[Tensor, " rows"],
        smoothing: float | Tensor,
    ) -> Float[Tensor, "rows width"] | None:
        """Add the gradients of the weight and the bias, and return that of the hidden states."""
        walk, hidden = self.walk, self.hidden
        head, grad_weight, grad_bias = walk.head, walk.grad_weight, walk.grad_bias
        # A softcap has a slope for each entry, so no factor can be moved to the [chunk, D] side.
        whole = head.terms.softcap is not None
        side = torch.empty_like(hidden.t(), memory_format=torch.contiguous_format)
        torch.mul(hidden.t(), 1 if whole else share, out=side)
        grad, drawn = self.drawn, self.drawn is not None
        if self.want_hidden and grad is None:
            grad = torch.zeros_like(hidden, dtype=head.statistics)
        # Backwards, because the last tiles are still in the cache.
        for number in reversed(range(len(head.tiles))):
            tile, g = head.tiles[number], self.tiles[number]
            if whole:
                g.mul_(share.unsqueeze(1))
                if head.terms.label_smoothing:
                    g.sub_(smoothing * head.smoothing_weight[tile])
                g.mul_(self.slopes[number])
            if grad is not None and not drawn:
                grad.add_(product(g, head.rows(tile).t()))
            if grad_bias is not None:
                grad_bias[tile] += g.sum(dim=0, dtype=head.statistics) if whole else g.t() @ share.to(g.dtype)
            if grad_weight is not None and walk.borrows(len(hidden)):
                # The product overwrites the memory of its scores.
                grad_weight[tile] = product(g.t(), side)
            elif grad_weight is not None:
                accumulate(grad_weight[tile], g.t(), side, walk.first)
        if grad is not None and not whole:
            grad.mul_(share.unsqueeze(1))
        own = walk.own(self.target)
        if grad_bias is not None:
            grad_bias.index_add_(0, self.target[own], corner[own])
        # The targets' entries, a few at a time, because gathered rows take memory.
        for part in torch.split(own, max(2**16 // max(hidden.shape[1], 1), 1)):
            entries, of_corner = self.target[part], corner[part].unsqueeze(1)
            if grad is not None:
                grad.index_add_(0, part, of_corner * head.weight[entries])
            if grad_weight is not None:
                grad_weight.index_add_(0, entries, (of_corner * hidden[part]).to(grad_weight.dtype))
        return grad


def sums_and_gradients(
    operands: Operands,
    *,
    problem: Problem,
    wanted: Wanted,
    exchange: Exchange | None = None,
    start: int = 0,
    scores: type[ChunkScores] = TiledScores,
) -> Summed:
    """``scale sum_i loss_i + z_scale sum_i lse_i^2`` over the kept rows, with its gradients.

    Args:
        operands: the problem's operands; the weight may be this process's rows, with targets on other processes.
        problem: the problem.
        wanted: which operands need a gradient.
        exchange: combines rows' statistics with the processes that hold the rest of the vocabulary.
        start: the first of the vocabulary's entries that the weight holds.
        scores: the class that computes a chunk's scores and products.

    Returns:
        The loss, its z-loss part for logging, and the gradients.
    """
    hidden, weight, bias, target = operands
    assert target is not None
    terms, scale, z_scale, kept = problem.terms, problem.scale, problem.z_scale, problem.kept
    head = Head(weight, bias, terms, start)
    row_weight = terms.row_weight(target + start if start else target)
    # A tuple, tiles of the vocabulary, was refused before.
    chunk = problem.chunk if isinstance(problem.chunk, int) else default_chunk(len(hidden), weight)
    step = min(chunk, max(len(hidden), 1))
    walk = TokenWalk(head, exchange or Alone(), problem.accum_dtype, wanted, step, scores)
    # Entries of a float16 gradient would underflow before the loss scaler multiplies them.
    whole = exchange is not None or hidden.dtype == torch.float16
    grad_hidden = (
        torch.zeros(hidden.shape, device=hidden.device, dtype=head.statistics if whole else hidden.dtype)
        if wanted[0]
        else None
    )
    cross_entropy = hidden.new_zeros((), dtype=head.statistics)
    square = torch.zeros_like(cross_entropy)

    def add(rows: slice) -> None:
        # A function, so that its tensors are freed before the next chunk is allocated.
        weight_of = row_weight[rows] if isinstance(row_weight, Tensor) else row_weight
        counts = None if kept is None else kept[rows].to(head.statistics)
        e = hidden[rows].to(head.dtype)
        if kept is not None:
            # An ignored row may hold NaN; as zeros its share of the gradient is 0.
            e = torch.where(kept[rows].unsqueeze(1), e, 0.0)
        chunk_scores, sums, lse = walk.exponentials(e, target[rows])
        picked = scores_of_kept(chunk_scores.picked, lse, None if kept is None else kept[rows])
        losses = terms.cross_entropy(lse, picked, chunk_scores.smooth, weight_of)
        squares = lse.square()
        cross_entropy.add_(scale * (losses if counts is None else losses * counts).sum())
        square.add_(z_scale * (squares if counts is None else squares * counts).sum())
        if not any(wanted):
            return
        of_target = terms.target_factor(lse, picked, weight_of)
        factor = scale * terms.probability_factor(of_target) + 2 * z_scale * lse
        # factor p_y - onehot, as two terms; the second has no cancellation.
        onehot = scale * of_target
        smoothing: float | Tensor = scale * terms.smoothing
        if counts is not None:
            factor, onehot, smoothing = factor * counts, onehot * counts, (smoothing * counts).unsqueeze(1)
        if terms.temperature != 1.0:
            # The slope of the scores; without a softcap the head's mean row contains that of smoothing.
            factor, onehot = factor / terms.temperature, onehot / terms.temperature
            smoothing = smoothing / terms.temperature if terms.softcap is not None else smoothing
        corner = (factor - onehot) * (picked - lse).exp() - onehot * chunk_scores.others / sums
        if chunk_scores.picked_slope is not None:
            corner = corner * chunk_scores.picked_slope
        grad = walk.add_gradients(
            chunk_scores,
            e,
            share=factor / sums,
            corner=corner,
            smoothing=smoothing,
        )
        if grad_hidden is not None and grad is not None:
            grad_hidden[rows] = grad

    for rows in walk.chunks(len(hidden)) if len(hidden) else ():
        add(rows)
    if grad_hidden is not None and exchange is not None:
        grad_hidden = exchange.total(grad_hidden)
        if hidden.dtype != torch.float16:
            grad_hidden = grad_hidden.to(hidden.dtype)
    return Summed(cross_entropy + square, square, grad_hidden, *walk.finished())


class Chunked(Implementation):
    """By chunks of tokens, with gradients computed in the forward pass."""

    name: Impl = "chunked"
    products, memory = "3", "a chunk of tokens x V"
    purpose = "training; gradients are made in the forward pass"

    def refuses(self, problem: Problem) -> str | None:
        """Refuses per-row gradients, filtering, and tiles of the vocabulary."""
        return super().refuses(problem) or refuse_tiles(self.name, problem)

    def merit(self, problem: Problem) -> str | None:
        """It is the fastest one that runs everywhere."""
        return "the logits are large; gradients made in forward need three products, not four"

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """By `sums_and_gradients`."""
        return of_sums(sums_and_gradients, self.name, problem)


CHUNKED = Chunked()
