"""Linear cross-entropy that computes its scores twice: memory independent of the vocabulary, per-row gradients.

Forward keeps two numbers a row. Backward walks tiles of tokens and vocabulary, makes each tile's scores again, and
knows by then what gradient every row's loss and logsumexp receive. The head's gradient gathers in float32 whatever its
dtype, since one tile of it is finished before the next begins.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import refuse_second_order
from lightning_losses.kernels.cross_entropy.problem import Implementation, LinearCrossEntropyValue, Problem, of_rows
from lightning_losses.kernels.head import Head, tile_width
from lightning_losses.kernels.products import exponentiate, product, spans, working_dtype
from lightning_losses.kernels.terms import Terms


class Tiling(NamedTuple):
    """How the walk is cut, and which tiles of the gradient it may leave out.

    Attributes:
        tokens: rows of a tile.
        vocabulary: columns of a tile.
        filter_eps: a tile is skipped in backward where every ``|softmax - onehot|`` is below this; None skips none.
        sort: walk the vocabulary by ascending mean score, so that likely entries share tiles.
    """

    tokens: int = 512
    vocabulary: int = 2048
    filter_eps: float | None = None
    sort: bool = False


class _Walk:
    """The head, its vocabulary's order, and where each target lies in it."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, terms: Terms, tiling: Tiling
    ) -> None:
        self.head = Head(weight, bias, terms)
        self.hidden, self.tiling = hidden, tiling
        self.order = vocabulary_order(hidden, weight, bias) if tiling.sort else None
        self.position = target if self.order is None else self.order.argsort()[target]
        self.token_tiles = list(spans(len(hidden), tiling.tokens)) if len(hidden) else []
        self.vocabulary_tiles = list(spans(len(weight), tiling.vocabulary))

    def entries(self, columns: slice) -> slice | Tensor:
        """The vocabulary entries of a tile."""
        return columns if self.order is None else self.order[columns]

    def scores(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor | None]:
        """A tile of (softcapped) scores in full precision, and the softcap's slope."""
        hidden = self.hidden[rows].to(self.head.dtype)
        return self.head.scores(hidden, self.entries(columns), full=True)

    def hits(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """The rows of a tile whose target is in it, and the columns where."""
        place = self.position[rows] - columns.start
        hit = ((place >= 0) & (place < columns.stop - columns.start)).nonzero().squeeze(1)
        return hit, place[hit]


def vocabulary_order(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, " vocabulary"] | None,
) -> Int[Tensor, " vocabulary"]:
    """The vocabulary by ascending mean score over the tokens."""
    mean = product(hidden.mean(dim=0, keepdim=True), weight).squeeze(0)
    return (mean if bias is None else mean + bias).argsort()


class RecomputedCrossEntropy(torch.autograd.Function):
    """Cross-entropy and logsumexp of each row, both differentiable."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, terms: Terms, tiling: Tiling
    ) -> tuple[Tensor, Tensor]:
        """Two numbers a row."""
        walk = _Walk(hidden, weight, bias, target, terms, tiling._replace(sort=False))
        head = walk.head
        lse = hidden.new_zeros(len(hidden), dtype=head.statistics)
        picked = torch.zeros_like(lse)
        smooth = torch.zeros_like(lse) if terms.label_smoothing else None
        for rows in walk.token_tiles:
            largest = torch.full_like(lse[rows], -torch.inf)
            total = torch.zeros_like(largest)
            for columns in walk.vocabulary_tiles:
                scores, _ = walk.scores(rows, columns)
                hit, place = walk.hits(rows, columns)
                picked[rows][hit] = scores[hit, place]
                if smooth is not None:
                    smooth[rows] += scores @ head.class_weight[columns]
                before, largest = largest, torch.maximum(largest, scores.amax(dim=1))
                # All classes so far may be masked by -inf: the difference of the infinities must not be formed.
                anchor = largest.masked_fill(largest == -torch.inf, 0.0)
                total.mul_((before - anchor).exp())
                total += exponentiate(scores.sub_(anchor.unsqueeze(1))).sum(dim=1)
            lse[rows] = total.log() + largest
        ctx.save_for_backward(hidden, weight, bias, target, lse)
        ctx.terms, ctx.tiling = terms, tiling
        return terms.cross_entropy(lse, picked, smooth, terms.row_weight(target)), lse

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, from the scores made again."""
        refuse_second_order("recompute")
        hidden, weight, bias, target, lse = ctx.saved_tensors
        terms: Terms = ctx.terms
        walk = _Walk(hidden, weight, bias, target, terms, ctx.tiling)
        head = walk.head
        want_hidden, want_weight, want_bias = ctx.needs_input_grad[:3]
        of_cross_entropy, of_lse = upstream
        weight_of = terms.row_weight(target)
        share = of_cross_entropy * terms.probability_factor(weight_of) + of_lse
        onehot = of_cross_entropy * ((1 - terms.label_smoothing) * weight_of)
        smoothing = of_cross_entropy * (terms.label_smoothing / terms.classes)
        grad_hidden = torch.zeros_like(hidden, dtype=head.statistics) if want_hidden else None
        grad_weight = torch.empty_like(weight) if want_weight else None
        grad_bias = torch.empty_like(bias) if want_bias and bias is not None else None
        for columns in walk.vocabulary_tiles:
            entries = walk.entries(columns)
            tile_weight = weight.new_zeros(columns.stop - columns.start, weight.shape[1], dtype=head.statistics)
            tile_bias = tile_weight.new_zeros(len(tile_weight))
            for rows in walk.token_tiles:
                g, slope = walk.scores(rows, columns)
                exponentiate(g.sub_(lse[rows].unsqueeze(1)))
                hit, place = walk.hits(rows, columns)
                if skipped(g, hit, place, ctx.tiling.filter_eps):
                    continue
                g.mul_(share[rows].unsqueeze(1))
                g[hit, place] -= onehot[rows][hit]
                if terms.label_smoothing:
                    g.sub_(smoothing[rows].unsqueeze(1) * head.class_weight[entries])
                if slope is not None:
                    g.mul_(slope)
                tile_bias += g.sum(dim=0)
                g = g.to(head.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] += product(g, head.rows(entries).t())
                if grad_weight is not None:
                    tile_weight += product(g.t(), hidden[rows].to(head.dtype).t())
            if grad_weight is not None:
                grad_weight[entries] = tile_weight.to(weight.dtype)
            if grad_bias is not None:
                grad_bias[entries] = tile_bias.to(grad_bias.dtype)
        return (None if grad_hidden is None else grad_hidden.to(hidden.dtype)), grad_weight, grad_bias, None, None, None


def skipped(
    probabilities: Float[Tensor, "rows columns"],
    hit: Int[Tensor, " hits"],
    place: Int[Tensor, " hits"],
    filter_eps: float | None,
) -> bool:
    """Whether every ``|softmax - onehot|`` of a tile is below the threshold."""
    if filter_eps is None:
        return False
    if bool((probabilities[hit, place] - 1).abs().ge(filter_eps).any()):
        return False
    others = probabilities.clone()
    others[hit, place] = 0
    return not bool(others.amax() >= filter_eps)


@torch.no_grad()
def filtered_tiles(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, " tokens"],
    bias: Float[Tensor, " vocabulary"] | None = None,
    *,
    tiling: Tiling,
) -> tuple[Int[Tensor, " vocabulary"], Bool[Tensor, "tokens vocabulary"]]:
    """What gradient filtering would keep, to judge a threshold on a sample of a model's hidden states.

    Returns:
        The order in which the vocabulary is walked, and for every token and entry whether its tile is kept.

    Example:
        >>> _, kept = filtered_tiles(torch.eye(2), 9 * torch.eye(2), torch.tensor([0, 1]),
        ...                          tiling=Tiling(1, 1, filter_eps=1e-2))
        >>> bool(kept.any())
        False
    """
    terms = Terms(len(weight))
    _, lse = RecomputedCrossEntropy.apply(hidden, weight, bias, target, terms, tiling)
    walk = _Walk(hidden, weight, bias, target, terms, tiling)
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
    """By tiles of tokens and vocabulary, whose scores the backward pass makes again."""

    name = "recompute"
    products, memory = "4", "a tile of tokens x vocabulary, whatever V"
    purpose = '`reduction="none"`, a differentiable logsumexp, filtering, least memory'

    def refuses(self, problem: Problem) -> str | None:
        """Nothing."""
        return None

    def merit(self, problem: Problem) -> str | None:
        """It can what others can't."""
        if problem.filter_eps is not None:
            return "gradient filtering asked for"
        return "per-row gradients are known in backward alone, so the scores are made again there"

    def evaluate(self, problem: Problem) -> LinearCrossEntropyValue:
        """By rows."""
        hidden, weight, target, terms = problem[:4]
        tile = tile_width(working_dtype(weight))
        tokens, vocabulary = problem.chunk if isinstance(problem.chunk, tuple) else (problem.chunk or 512, tile)
        tiling = Tiling(tokens, vocabulary, problem.filter_eps, problem.sort_vocabulary)
        return of_rows(problem, *RecomputedCrossEntropy.apply(hidden, weight, problem.bias, target, terms, tiling))


RECOMPUTE = Recompute()
