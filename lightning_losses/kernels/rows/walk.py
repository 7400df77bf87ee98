"""A walk over the tokens for any row-wise loss: a chunk's scores, its values, and the gradients they add to."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import Summed, Wanted, refuse_second_order
from lightning_losses.kernels.head import Head
from lightning_losses.kernels.products import accumulate, product, spans
from lightning_losses.kernels.rows.by_hand import Chunk, Outcome
from lightning_losses.kernels.rows.row_wise import Rows
from lightning_losses.kernels.rows.teachers import Teacher
from lightning_losses.kernels.terms import Terms


class ChunkLoss(NamedTuple):
    """What is evaluated on each chunk, and how.

    Attributes:
        rows: the loss's values, differentiable.
        by_hand: its values and gradients over tiles, where it has them.
        teacher: where the teacher's scores come from, if there is one.
        chunk: rows at once.
        accum_dtype: what the weight's gradient gathers in; by default its own dtype, float32 for float16.
    """

    rows: Rows
    by_hand: Callable[[Chunk], Outcome] | None
    teacher: Teacher | None
    chunk: int
    accum_dtype: torch.dtype | None

    def evaluate(self, chunk: Callable[[], Chunk], wanted: bool) -> Outcome:
        """A chunk's values, and their gradients by the scores, tile by tile; by hand if possible."""
        if self.by_hand is not None:
            outcome = self.by_hand(chunk())
            if bool(outcome.values.isfinite().all()):
                return outcome
            del outcome
        scores = chunk()
        logits = torch.cat(list(scores.student), dim=1).requires_grad_(wanted)
        teacher = list(scores.teacher)
        with torch.set_grad_enabled(wanted):
            values = self.rows(logits, torch.cat(teacher, dim=1) if teacher else None, scores.target)
            gradient = torch.autograd.grad(values.sum(), logits)[0] if wanted else logits
        return Outcome(values.detach(), [gradient[:, entries] for entries in scores.entries])


class Walked(NamedTuple):
    """Each row's value, and the gradients of their weighted sum."""

    values: Float[Tensor, " rows"]
    grad_hidden: Tensor | None
    grad_weight: Tensor | None
    grad_bias: Tensor | None


def walk(
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, " vocabulary"] | None,
    target: Int[Tensor, " rows"] | None,
    loss: ChunkLoss,
    share: float | Tensor,
    wanted: Wanted,
) -> Walked:
    """Evaluate a loss on every chunk of rows.

    Args:
        hidden: [N, D], none ignored.
        weight: [V, D].
        bias: [V] or None.
        target: [N] or None.
        loss: what is evaluated.
        share: what each row's value weighs in the sum whose gradients are made; a number, [] or [N].
        wanted: which of hidden, weight and bias need a gradient.
    """
    head = Head(weight, bias, Terms(len(weight)), beside_teacher=loss.teacher is not None)
    values = hidden.new_zeros(len(hidden), dtype=head.statistics)
    grad_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format) if wanted[0] else None
    half = torch.float32 if weight.dtype == torch.float16 else weight.dtype
    grad_weight = torch.empty_like(weight, dtype=loss.accum_dtype or half) if wanted[1] else None
    grad_bias = weight.new_zeros(len(weight), dtype=head.statistics) if wanted[2] and bias is not None else None
    if grad_weight is not None and len(hidden) == 0:
        grad_weight.zero_()
    # In half precision every tile's product would be rounded by itself; all tiles in one product are rounded once.
    at_once = head.dtype == weight.dtype == torch.bfloat16
    # Every chunk's scores and gradients lie here: memory asked for anew would be cleared anew.
    size = min(loss.chunk, len(hidden)) * len(weight)
    networks = 1 if loss.teacher is None else 2
    space = weight.new_empty(networks if loss.by_hand else 0, size, dtype=head.statistics)
    whole_space = weight.new_empty(size if at_once and any(wanted) else 0, dtype=head.dtype)

    def placed(scores: Iterator[Tensor], network: int, count: int) -> Iterator[Tensor]:
        for tile, fresh in zip(head.tiles, scores, strict=False):
            if loss.by_hand is None:
                yield fresh.to(head.statistics)
            else:
                place = space[network, tile.start * count : tile.stop * count].view(count, -1)
                yield place.copy_(fresh)

    def add(rows: slice) -> None:
        # A function, so that all it makes is gone when the next chunk asks for memory.
        e = hidden[rows].to(head.dtype)

        def chunk() -> Chunk:
            student = (head.scores(e, tile, full=bias is not None)[0] for tile in head.tiles)
            teacher = iter(()) if loss.teacher is None else loss.teacher.scores(rows, head.tiles, head.statistics)
            return Chunk(
                placed(student, 0, len(e)),
                placed(teacher, 1, len(e)),
                None if target is None else target[rows],
                head.tiles,
            )

        outcome = loss.evaluate(chunk, any(wanted))
        values[rows] = outcome.values
        if not any(wanted):
            return
        weigh = share[rows] if isinstance(share, Tensor) and share.ndim else values.new_ones(len(e)) * share
        weigh = (weigh * outcome.factor).unsqueeze(1)
        side = (e * weigh).to(e.dtype).t().contiguous()
        grad = torch.zeros_like(e, dtype=head.statistics)
        whole = whole_space[: len(e) * len(weight)].view(len(e), -1) if at_once else e
        for number, tile in enumerate(head.tiles):
            if outcome.complete is not None:
                outcome.complete(number)
            if grad_bias is not None:
                grad_bias[tile] += weigh.squeeze(1) @ outcome.tiles[number]
            g = whole[:, tile].copy_(outcome.tiles[number]) if at_once else outcome.tiles[number].to(head.dtype)
            if grad_hidden is not None and not at_once:
                grad += product(g, head.rows(tile).t())
            if grad_weight is not None:
                accumulate(grad_weight[tile], g.t(), side, rows.start == 0)
        if grad_hidden is not None:
            grad = torch.mm(whole, weight).to(head.statistics) if at_once else grad
            grad_hidden[rows] = grad.mul_(weigh)

    for rows in spans(len(hidden), loss.chunk) if len(hidden) else ():
        add(rows)
    return Walked(
        values,
        grad_hidden,
        None if grad_weight is None else grad_weight.to(weight.dtype),
        None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
    )


def scaled_sum(
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, " vocabulary"] | None,
    target: Int[Tensor, " rows"] | None,
    *,
    loss: ChunkLoss,
    scale: float | Tensor,
    wanted: Wanted,
) -> Summed:
    """``scale`` times the sum of the rows' values, with its gradients; nothing is logged beside it."""
    walked = walk(hidden, weight, bias, target, loss, scale, wanted)
    values = walked.values
    return Summed(scale * values.sum(), values.new_zeros(()), *walked[1:])


class ChunkedRows(torch.autograd.Function):
    """Each row's value; backward walks again, once it knows what gradient each row receives."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor | None, loss: ChunkLoss
    ) -> Tensor:
        """The values."""
        ctx.save_for_backward(hidden, weight, bias, target)
        ctx.loss = loss
        return walk(hidden, weight, bias, target, loss, 1.0, (False, False, False)).values

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, from the scores made again."""
        refuse_second_order("chunked")
        hidden, weight, bias, target = ctx.saved_tensors
        walked = walk(hidden, weight, bias, target, ctx.loss, upstream[0], ctx.needs_input_grad[:3])
        return (*walked[1:], None, None)
