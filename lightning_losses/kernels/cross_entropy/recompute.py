"""Linear cross-entropy that computes its scores twice: memory independent of the vocabulary, per-row gradients.

The forward pass keeps a few numbers per row. The backward pass goes over tiles of tokens and vocabulary and computes
each tile's scores again; by then the upstream gradient of every row's loss and logsumexp is known. The head's gradient
is accumulated in float32 for any dtype, because each of its tiles is finished before the next begins.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import Operands, Wanted
from lightning_losses.kernels.cross_entropy.problem import Implementation, LinearCrossEntropyValue, Problem
from lightning_losses.kernels.cross_entropy.rows import Statistics, asked_for, by_rows
from lightning_losses.kernels.head import Head, tile_width
from lightning_losses.kernels.terms import Terms
from lightning_losses.numerics.products import exponentiate, product, spans, working_dtype


class Tiling(NamedTuple):
    """The sizes of the tiles, and the threshold for skipping tiles of the gradient.

    Attributes:
        tokens: rows of a tile.
        vocabulary: columns of a tile.
        filter_eps: a tile is skipped in the backward pass if every ``|softmax - onehot|`` is below this; None skips
            none.
        sort: order the vocabulary by ascending mean score, so that likely entries share tiles.
    """

    tokens: int = 512
    vocabulary: int = 2048
    filter_eps: float | None = None
    sort: bool = False


def default_tile(tokens: int, weight: Float[Tensor, "vocabulary width"], filtered: bool = False) -> tuple[int, int]:
    """Rows and columns of a tile: a CPU's cache holds it; elsewhere few, even ones, since each needs many launches.

    Filtering keeps small tiles everywhere: in a large one some entry is always above the threshold.

    Example:
        >>> default_tile(5000, torch.empty(128256, 8, device="meta")), default_tile(5000, torch.empty(128256, 8))[0]
        ((1667, 32064), 512)
    """
    if weight.device.type == "cpu" or filtered:
        return 512, tile_width(working_dtype(weight))
    return _even(tokens, 2048), _even(len(weight), 32768)


def _even(length: int, most: int) -> int:
    """The size of as few equal parts as `most` allows."""
    return max(-(-length // max(-(-length // most), 1)), 1)


class _Walk:
    """The head, the order of its vocabulary, and each target's position in this order."""

    def __init__(self, operands: Operands, terms: Terms, tiling: Tiling, kept: Bool[Tensor, " tokens"] | None) -> None:
        hidden, weight, bias, target = operands
        assert target is not None
        self.head = Head(weight, bias, terms)
        # An ignored row may hold NaN; as zeros its share of the gradient is 0.
        self.hidden = hidden = hidden if kept is None else torch.where(kept.unsqueeze(1), hidden, 0.0)
        self.tiling = tiling
        self.order = vocabulary_order(hidden, weight, bias) if tiling.sort else None
        self.position = target if self.order is None else self.order.argsort()[target]
        self.token_tiles = list(spans(len(hidden), tiling.tokens)) if len(hidden) else []
        self.vocabulary_tiles = list(spans(len(weight), tiling.vocabulary))

    def entries(self, columns: slice) -> slice | Tensor:
        """The vocabulary entries of a tile."""
        return columns if self.order is None else self.order[columns]

    def scores(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor | None]:
        """A tile of (softcapped) scores in full precision, and the slope of the softcap."""
        hidden = self.hidden[rows].to(self.head.dtype)
        return self.head.scores(hidden, self.entries(columns), full=True)

    def hits(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Whether each row's target is in a tile, and its column, [rows, 1]; any column if it is not."""
        place = self.position[rows] - columns.start
        width = columns.stop - columns.start
        return (place >= 0) & (place < width), place.clamp(0, max(width - 1, 0)).unsqueeze(1)


def vocabulary_order(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, " vocabulary"] | None,
) -> Int[Tensor, " vocabulary"]:
    """The vocabulary by ascending mean score over the tokens."""
    mean = product(hidden.mean(dim=0, keepdim=True), weight).squeeze(0)
    return (mean if bias is None else mean + bias).argsort()


class Recomputed(NamedTuple):
    """The forward and the backward walk, by tiles of tokens and vocabulary."""

    terms: Terms
    tiling: Tiling
    entropy: bool = False
    kept: Bool[Tensor, " tokens"] | None = None

    @property
    def asked(self) -> tuple[bool, bool, bool, bool]:
        """Which statistics are computed."""
        return asked_for(self.terms, self.entropy)

    def statistics(self, operands: Operands) -> Statistics:
        """The statistics of each row."""
        walk = _Walk(operands, self.terms, self.tiling._replace(sort=False), self.kept)
        head, statistics = walk.head, Statistics.zeros(operands, self.asked)
        lse, picked, smooth, entropy = statistics
        for rows in walk.token_tiles:
            largest = torch.full_like(lse[rows], -torch.inf)
            total, weighted = torch.zeros_like(largest), torch.zeros_like(largest)
            for columns in walk.vocabulary_tiles:
                scores, _ = walk.scores(rows, columns)
                hit, place = walk.hits(rows, columns)
                picked[rows] += torch.where(hit, scores.gather(1, place).squeeze(1), 0.0)
                if smooth is not None:
                    smooth[rows] += head.weighing(scores, columns) @ head.smoothing_weight[columns]
                before, largest = largest, torch.maximum(largest, scores.amax(dim=1))
                # All classes so far may be masked by -inf; inf - inf must not be computed.
                anchor = largest.masked_fill(largest == -torch.inf, 0.0)
                decay = (before - anchor).exp()
                shift = anchor.unsqueeze(1)
                exponentials = exponentiate(scores.sub_(shift) if entropy is None else scores - shift)
                total.mul_(decay).add_(exponentials.sum(dim=1))
                if entropy is not None:
                    # A class of probability 0 adds 0 to the entropy, even if its score is -inf.
                    surprise = torch.where(exponentials > 0, exponentials * scores, 0.0)
                    weighted.mul_(decay).add_(surprise.sum(dim=1))
            lse[rows] = total.log() + largest
            if entropy is not None:
                entropy[rows] = lse[rows] - weighted / total
        return statistics

    def gradients(
        self, operands: Operands, statistics: Statistics, upstream: Statistics, wanted: Wanted
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients, from scores computed again."""
        hidden, weight, bias, _ = operands
        walk = _Walk(operands, self.terms, self.tiling, self.kept)
        head, lse = walk.head, statistics.lse
        want_hidden, want_weight, want_bias = wanted
        grad_hidden = torch.zeros_like(hidden, dtype=head.statistics) if want_hidden else None
        grad_weight = torch.empty_like(weight) if want_weight else None
        grad_bias = torch.empty_like(bias) if want_bias and bias is not None else None
        for columns in walk.vocabulary_tiles:
            entries = walk.entries(columns)
            tile_weight = weight.new_zeros(columns.stop - columns.start, weight.shape[1], dtype=head.statistics)
            tile_bias = tile_weight.new_zeros(len(tile_weight))
            for rows in walk.token_tiles:
                scores, slope = walk.scores(rows, columns)
                scores.sub_(lse[rows].unsqueeze(1))
                g = scores.exp() if self.entropy else exponentiate(scores)
                hit, place = walk.hits(rows, columns)
                if skipped(g, hit, place, self.tiling.filter_eps):
                    continue
                share = upstream.lse[rows].unsqueeze(1)
                if statistics.entropy is not None and upstream.entropy is not None:
                    surprise = torch.where(g > 0, scores + statistics.entropy[rows].unsqueeze(1), 0.0)
                    share = share - upstream.entropy[rows].unsqueeze(1) * surprise
                g.mul_(share)
                g.scatter_add_(1, place, torch.where(hit, upstream.picked[rows], 0.0).unsqueeze(1))
                if upstream.smooth is not None:
                    g.add_(upstream.smooth[rows].unsqueeze(1) * head.smoothing_weight[entries])
                if slope is not None:
                    g.mul_(slope)
                if self.terms.temperature != 1.0:
                    g.div_(self.terms.temperature)
                tile_bias += g.sum(dim=0)
                g = g.to(head.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] += product(g, head.rows(entries).t())
                if grad_weight is not None:
                    tile_weight += product(g.t(), walk.hidden[rows].to(head.dtype).t())
            if grad_weight is not None:
                grad_weight[entries] = tile_weight.to(weight.dtype)
            if grad_bias is not None:
                grad_bias[entries] = tile_bias.to(grad_bias.dtype)
        return None if grad_hidden is None else grad_hidden.to(hidden.dtype), grad_weight, grad_bias


def skipped(
    probabilities: Float[Tensor, "rows columns"],
    hit: Bool[Tensor, " rows"],
    place: Int[Tensor, "rows 1"],
    filter_eps: float | None,
) -> bool:
    """Whether every ``|softmax - onehot|`` of a tile is below the threshold; synchronises with the host."""
    if filter_eps is None:
        return False
    distances = probabilities.scatter_add(1, place, -hit.to(probabilities.dtype).unsqueeze(1)).abs_()
    return not bool(distances.amax() >= filter_eps)


@torch.no_grad()
def filtered_tiles(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, " tokens"],
    bias: Float[Tensor, " vocabulary"] | None = None,
    *,
    tiling: Tiling,
) -> tuple[Int[Tensor, " vocabulary"], Bool[Tensor, "tokens vocabulary"]]:
    """The entries that gradient filtering would keep, to choose a threshold on a sample of hidden states.

    Returns:
        The order of the vocabulary, and for every token and entry whether its tile is kept.

    Example:
        >>> _, kept = filtered_tiles(torch.eye(2), 9 * torch.eye(2), torch.tensor([0, 1]),
        ...                          tiling=Tiling(1, 1, filter_eps=1e-2))
        >>> bool(kept.any())
        False
    """
    operands, terms = Operands(hidden, weight, bias, target), Terms(len(weight))
    lse = Recomputed(terms, tiling).statistics(operands).lse
    walk = _Walk(operands, terms, tiling, None)
    order = torch.arange(len(weight), device=weight.device) if walk.order is None else walk.order
    kept = torch.zeros(len(hidden), len(weight), dtype=torch.bool, device=weight.device)
    for columns in walk.vocabulary_tiles:
        for rows in walk.token_tiles:
            scores, _ = walk.scores(rows, columns)
            probabilities = exponentiate(scores.sub_(lse[rows].unsqueeze(1)))
            keep = not skipped(probabilities, *walk.hits(rows, columns), tiling.filter_eps)
            kept[rows, order[columns]] = keep
    return order, kept


class Recompute(Implementation):
    """By tiles of tokens and vocabulary; the backward pass computes their scores again."""

    name = "recompute"
    products, memory = "4", "a tile of tokens x vocabulary, whatever V"
    purpose = '`reduction="none"`, a differentiable logsumexp, filtering, least memory'

    def refuses(self, problem: Problem) -> str | None:
        """Nothing."""
        return None

    def merit(self, problem: Problem) -> str | None:
        """It supports options that the others don't."""
        if problem.filter_eps is not None:
            return "gradient filtering asked for"
        return "gradients per row are known only in the backward pass, so the scores are computed again there"

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """By rows."""
        tokens, vocabulary = default_tile(len(problem.hidden), problem.weight, problem.filter_eps is not None)
        if problem.chunk is not None:
            tokens, vocabulary = problem.chunk if isinstance(problem.chunk, tuple) else (problem.chunk, vocabulary)
        tiling = Tiling(tokens, vocabulary, problem.filter_eps, problem.sort_vocabulary)
        return by_rows(problem, Recomputed(problem.terms, tiling, problem.entropy, problem.kept), self.name)


RECOMPUTE = Recompute()
