"""A walk over the tokens for any row-wise loss: a chunk's scores, its values, and the gradients they add to."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lightning_losses.kernels.autograd import Operands, Wanted
from lightning_losses.kernels.head import Head
from lightning_losses.kernels.products import accumulate, product, spans
from lightning_losses.kernels.rows.by_hand import Chunk, Outcome, cross_entropy
from lightning_losses.kernels.rows.gradients import Parts, Walked
from lightning_losses.kernels.rows.row_wise import Rows
from lightning_losses.kernels.rows.teachers import Teacher
from lightning_losses.kernels.terms import Terms

Softcaps = tuple[float | None, float | None]
"""What the student's scores are capped at, and the teacher's."""


class Evaluated(NamedTuple):
    """As `Outcome`, with a line of values for each part."""

    values: list[Float[Tensor, " rows"]]
    tiles: list[Tensor]
    factor: float
    complete: Callable[[int], None] | None


class ChunkLoss(NamedTuple):
    """What is evaluated on each chunk, and how.

    Attributes:
        rows: the loss's values, differentiable.
        by_hand: its values and gradients over tiles, where it has them.
        teacher: where the teacher's scores come from, if there is one.
        parts: the weights of the loss and of cross-entropy.
        chunk: rows at once.
        accum_dtype: what the weight's gradient gathers in; by default its own dtype, float32 for float16.
        kept: [N] which rows count, or None for all; hidden states of the others may hold anything.
        softcaps: the s of ``s tanh(l / s)``, which become the student's and the teacher's scores; None for none.
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
        """A chunk's values, and their gradients by the scores, tile by tile; by hand if possible.

        Args:
            chunk: makes its scores.
            copied: copies of the student's, once they have been made.
            wanted: whether gradients are.
        """
        if self.by_hand is not None:
            outcome = self.by_hand(chunk())
            evaluated = Evaluated([outcome.values], outcome.tiles, self.parts.soft * outcome.factor, outcome.complete)
            if self.parts.hard:
                evaluated = _beside(evaluated, cross_entropy(None, copied()), self.parts.hard)
            # What is evaluated by hand elsewhere is right without a look.
            if outcome.values.device.type != "cpu" or all(bool(part.isfinite().all()) for part in evaluated.values):
                return evaluated
            del outcome, evaluated
        scores = chunk()
        product = torch.cat(list(scores.student), dim=1).requires_grad_(wanted)
        teacher = list(scores.teacher)
        with torch.set_grad_enabled(wanted):
            logits = softcapped(product, self.softcaps[0])
            teacher_logits = softcapped(torch.cat(teacher, dim=1), self.softcaps[1]) if teacher else None
            values = [self.rows(logits, teacher_logits, scores.target)]
            if self.parts.hard and scores.target is not None:
                values.append(functional.cross_entropy(logits, scores.target, reduction="none"))
            total = self.parts.total(torch.stack(values)).sum()
            gradient = torch.autograd.grad(total, product)[0] if wanted else product
        tiles = [gradient[:, entries] for entries in scores.entries]
        return Evaluated([part.detach() for part in values], tiles, 1.0, None)


def softcapped(scores: Float[Tensor, "*rows classes"], softcap: float | None) -> Float[Tensor, "*rows classes"]:
    """``s tanh(l / s)``, or the scores as they are.

    Example:
        >>> softcapped(torch.tensor([0.0, 1e6]), 30.0).tolist()
        [0.0, 30.0]
    """
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _beside(soft: Evaluated, hard: Outcome, weight: float) -> Evaluated:
    """A loss with cross-entropy times `weight` added: in place of its gradient that of the sum."""

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
        share: what each row's value weighs in the sum whose gradients are made; a number, [] or [N].
        wanted: which of hidden, weight and bias need a gradient.
        loss: what is evaluated.
    """
    hidden, weight, bias, target = operands
    head = Head(weight, bias, Terms(len(weight)), beside_teacher=loss.teacher is not None)
    values = hidden.new_zeros(2 if loss.parts.hard else 1, len(hidden), dtype=head.statistics)
    # Those of float16 are rounded after the upstream gradient alone, in which a loss scaler is.
    half = torch.float32 if weight.dtype == torch.float16 else weight.dtype
    grad_hidden = torch.zeros(hidden.shape, dtype=half, device=hidden.device) if wanted[0] else None
    grad_weight = torch.empty_like(weight, dtype=loss.accum_dtype or half) if wanted[1] else None
    grad_bias = weight.new_zeros(len(weight), dtype=head.statistics) if wanted[2] and bias is not None else None
    if grad_weight is not None and len(hidden) == 0:
        grad_weight.zero_()
    # In half precision every tile's product would be rounded by itself; all tiles in one product are rounded once.
    at_once = head.dtype == weight.dtype == torch.bfloat16
    # Every chunk's scores and gradients lie here: memory asked for anew would be cleared anew.
    size = min(loss.chunk, len(hidden)) * len(weight)
    # The student's twice where cross-entropy goes over them beside the loss.
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
        # A function, so that all it makes is gone when the next chunk asks for memory.
        e = hidden[rows].to(head.dtype)
        kept = None if loss.kept is None else loss.kept[rows].unsqueeze(1)
        if kept is not None:
            # Their gradient is 0, but 0 times what is not a number is not 0.
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
