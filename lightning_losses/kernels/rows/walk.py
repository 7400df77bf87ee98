"""The pass over the tokens for any row-wise loss: a chunk's scores, its values, and the accumulated gradients."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lightning_losses.kernels.autograd import Operands, Wanted
from lightning_losses.kernels.head import Head
from lightning_losses.kernels.rows.by_hand import Chunk, Outcome, cross_entropy
from lightning_losses.kernels.rows.gradients import Parts, Walked
from lightning_losses.kernels.rows.row_wise import Rows
from lightning_losses.kernels.rows.teachers import Teacher
from lightning_losses.kernels.terms import Terms
from lightning_losses.numerics.products import accumulate, product, spans

Softcaps = tuple[float | None, float | None]
"""The softcaps of the student's and the teacher's scores."""


class Evaluated(NamedTuple):
    """As `Outcome`, with one line of values for each part."""

    values: list[Float[Tensor, " rows"]]
    tiles: list[Tensor]
    factor: float
    complete: Callable[[int], None] | None


class ChunkLoss(NamedTuple):
    """The loss of each chunk, and how it is evaluated.

    Attributes:
        rows: the loss's differentiable values.
        by_hand: its hand-written values and gradients over tiles, if there are any.
        teacher: the source of the teacher's scores, if there is a teacher.
        parts: the weights of the loss and of cross-entropy.
        chunk: rows per chunk.
        accum_dtype: the dtype that accumulates the weight's gradient; by default its own dtype, float32 for float16.
        kept: [N] which rows count, or None for all; hidden states of other rows may hold NaN.
        softcaps: s in ``s tanh(l / s)`` for the student's and the teacher's scores; None for none.
    """

    rows: Rows
    by_hand: Callable[[Chunk], Outcome] | None
    teacher: Teacher | None
    parts: Parts
    chunk: int
    accum_dtype: torch.dtype | None
    kept: Bool[Tensor, " rows"] | None = None
    softcaps: Softcaps = (None, None)

    def evaluate(self, chunk: Callable[[], Chunk], copied: Callable[[], Chunk], wanted: bool) -> Evaluated:
        """A chunk's values and their gradients with respect to the scores, in tiles; by hand if possible.

        Args:
            chunk: a function that computes the chunk's scores.
            copied: a function that copies the student's scores, once they are computed.
            wanted: whether gradients are wanted.
        """
        if self.by_hand is not None:
            outcome = self.by_hand(chunk())
            evaluated = Evaluated([outcome.values], outcome.tiles, self.parts.soft * outcome.factor, outcome.complete)
            if self.parts.hard:
                evaluated = _beside(evaluated, cross_entropy(None, copied()), self.parts.hard)
            # Evaluations by hand on other devices need no check.
            if outcome.values.device.type != "cpu" or all(bool(part.isfinite().all()) for part in evaluated.values):
                return evaluated
            del outcome, evaluated
        scores = chunk()
        product = _joined(list(scores.student)).requires_grad_(wanted)
        teacher = list(scores.teacher)
        with torch.set_grad_enabled(wanted):
            logits = softcapped(product, self.softcaps[0])
            teacher_logits = softcapped(_joined(teacher), self.softcaps[1]) if teacher else None
            values = [self.rows(logits, teacher_logits, scores.target)]
            if self.parts.hard and scores.target is not None:
                values.append(functional.cross_entropy(logits, scores.target, reduction="none"))
            total = self.parts.total(torch.stack(values)).sum()
            gradient = torch.autograd.grad(total, product)[0] if wanted else product
        tiles = [gradient[:, entries] for entries in scores.entries]
        return Evaluated([part.detach() for part in values], tiles, 1.0, None)


def _joined(tiles: list[Tensor]) -> Tensor:
    """A chunk's scores from its tiles; a single one, as on a GPU, is not copied."""
    # Detached, so that asking for its gradient changes no tensor of another's.
    return tiles[0].detach() if len(tiles) == 1 else torch.cat(tiles, dim=1)


def softcapped(scores: Float[Tensor, "*rows classes"], softcap: float | None) -> Float[Tensor, "*rows classes"]:
    """``s tanh(l / s)``, or the scores as they are.

    Example:
        >>> softcapped(torch.tensor([0.0, 1e6]), 30.0).tolist()
        [0.0, 30.0]
    """
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _beside(soft: Evaluated, hard: Outcome, weight: float) -> Evaluated:
    """Add cross-entropy times `weight` to a loss; its gradient is replaced by that of the sum."""

    def complete(number: int) -> None:
        for part in (soft, hard):
            if part.complete is not None:
                part.complete(number)
        soft.tiles[number].mul_(soft.factor).add_(hard.tiles[number], alpha=weight)

    return Evaluated([*soft.values, hard.values], soft.tiles, 1.0, complete)


def walk(
    operands: Operands,
    *,
    share: float | Tensor,
    wanted: Wanted,
    loss: ChunkLoss,
) -> Walked:
    """Evaluate a loss on every chunk of rows.

    Args:
        operands: rows, the head, and targets, if the loss takes them.
        share: the weight of each row's value in the sum that is differentiated; a number, [] or [N].
        wanted: which of hidden, weight and bias need a gradient.
        loss: the loss.
    """
    hidden, weight, bias, target = operands
    head = Head(weight, bias, Terms(len(weight)), beside_teacher=loss.teacher is not None)
    values = hidden.new_zeros(2 if loss.parts.hard else 1, len(hidden), dtype=head.statistics)
    # Float16 gradients are rounded only after the upstream gradient, with its loss scale, has multiplied them.
    half = torch.float32 if weight.dtype == torch.float16 else weight.dtype
    grad_hidden = torch.zeros(hidden.shape, dtype=half, device=hidden.device) if wanted[0] else None
    grad_weight = torch.empty_like(weight, dtype=loss.accum_dtype or half) if wanted[1] else None
    grad_bias = weight.new_zeros(len(weight), dtype=head.statistics) if wanted[2] and bias is not None else None
    if grad_weight is not None and len(hidden) == 0:
        grad_weight.zero_()
    # In half precision the product of each tile would be rounded; one product of all tiles is rounded once.
    at_once = head.dtype == weight.dtype == torch.bfloat16
    # All chunks reuse this memory for scores and gradients, because new memory would be cleared.
    size = min(loss.chunk, len(hidden)) * len(weight)
    # The student's scores twice, if cross-entropy needs them too.
    networks = 1 if loss.teacher is None else 2
    copies = [0, networks] if loss.parts.hard else [0]
    space = weight.new_empty(networks + len(copies) - 1 if loss.by_hand else 0, size, dtype=head.statistics)
    whole_space = weight.new_empty(size if at_once and any(wanted) else 0, dtype=head.dtype)

    def placed(scores: Iterator[Tensor], lines: list[int], count: int) -> Iterator[Tensor]:
        for tile, fresh in zip(head.tiles, scores, strict=False):
            if loss.by_hand is None:
                yield fresh.to(head.statistics)
            else:
                first, *others = (space[line, tile.start * count : tile.stop * count] for line in lines)
                for copy in others:
                    copy.view(count, -1).copy_(fresh)
                yield first.view(count, -1).copy_(fresh)

    def add(rows: slice) -> None:
        # A function, so that its tensors are freed before the next chunk is allocated.
        e = hidden[rows].to(head.dtype)
        kept = None if loss.kept is None else loss.kept[rows].unsqueeze(1)
        if kept is not None:
            # Their gradient is 0, but 0 times NaN is NaN.
            e = torch.where(kept, e, 0.0)
        labels = None if target is None else target[rows]

        def chunk() -> Chunk:
            student = (head.scores(e, tile, full=bias is not None)[0] for tile in head.tiles)
            teacher = iter(()) if loss.teacher is None else loss.teacher.scores(rows, head.tiles, head.statistics)
            return Chunk(placed(student, copies, len(e)), placed(teacher, [1], len(e)), labels, head.tiles)

        def copied() -> Chunk:
            tiles = (space[-1, tile.start * len(e) : tile.stop * len(e)].view(len(e), -1) for tile in head.tiles)
            return Chunk(tiles, iter(()), labels, head.tiles)

        outcome = loss.evaluate(chunk, copied, any(wanted))
        for part, of_rows in zip(values, outcome.values, strict=True):
            part[rows] = of_rows if kept is None else torch.where(kept.squeeze(1), of_rows, 0.0)
        if not any(wanted):
            return
        weigh = share[rows] if isinstance(share, Tensor) and share.ndim else values.new_ones(len(e)) * share
        if kept is not None:
            weigh = torch.where(kept.squeeze(1), weigh, 0.0)
        weigh = (weigh * outcome.factor).unsqueeze(1)
        side = (e * weigh).to(e.dtype).t().contiguous()
        grad = torch.zeros_like(e, dtype=head.statistics)
        whole = whole_space[: len(e) * len(weight)].view(len(e), -1) if at_once else e
        for number, tile in enumerate(head.tiles):
            if outcome.complete is not None:
                outcome.complete(number)
            gradient = outcome.tiles[number] if kept is None else torch.where(kept, outcome.tiles[number], 0.0)
            if grad_bias is not None:
                grad_bias[tile] += weigh.squeeze(1) @ gradient
            g = whole[:, tile].copy_(gradient) if at_once else gradient.to(head.dtype)
            if grad_hidden is not None and not at_once:
                grad += product(g, head.rows(tile).t())
            if grad_weight is not None:
                accumulate(grad_weight[tile], g.t(), side, rows.start == 0)
        if grad_hidden is not None:
            grad = torch.mm(whole, weight).to(head.statistics) if at_once else grad
            grad_hidden[rows] = grad.mul_(weigh)

    for rows in spans(len(hidden), loss.chunk) if len(hidden) else ():
        add(rows)
    return Walked(values, grad_hidden, None if grad_weight is None else grad_weight.to(half), grad_bias)
