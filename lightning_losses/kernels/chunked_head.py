"""Any row-wise loss of a classifier head by chunks of tokens: the [tokens, vocabulary] logits are never held."""

import copy
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.kernels.cross_entropy.chunked import refuse_second_order, scaled
from lightning_losses.kernels.cross_entropy.walk import default_chunk
from lightning_losses.kernels.head import Head
from lightning_losses.kernels.inputs import autocast, check_head, check_targets
from lightning_losses.kernels.products import accumulate, product, spans
from lightning_losses.kernels.rows.by_hand import Chunk, Evaluator, Outcome, evaluator_of
from lightning_losses.kernels.terms import Terms, statistics_dtype
from lightning_losses.numerics.checks import check_choice, check_number
from lightning_losses.numerics.reduction import Reduction

ChunkedImpl = Literal["auto", "reference", "chunked", "autograd"]
RowLoss = Callable[..., Tensor]


class Teacher(Protocol):
    """Where the teacher's scores of a chunk come from."""

    def select(self, index: Int[Tensor, " kept"]) -> "Teacher":
        """The same for some of the rows."""

    def scores(self, rows: slice, tiles: list[slice], dtype: torch.dtype) -> Iterator[Tensor]:
        """The scores of a chunk of rows, tile by tile of the vocabulary, in `dtype` or that of its products."""


def chunked_head(
    loss: RowLoss,
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, "*tokens"] | None = None,
    bias: Float[Tensor, " vocabulary"] | None = None,
    *,
    teacher: Teacher | None = None,
    ignore_index: int | None = None,
    reduction: Reduction | None = None,
    normalizer: float | Tensor | None = None,
    chunk: int | None = None,
    accum_dtype: torch.dtype | None = None,
    impl: ChunkedImpl = "auto",
) -> Float[Tensor, "..."]:
    """``loss(logits=hidden @ weight.T + bias, target=target)`` without ever holding these logits.

    The loss is evaluated a chunk of tokens at a time, and its gradient by the chunk's logits is multiplied on at
    once: three products, and memory for one chunk. Ignored tokens are dropped before the product.

    Args:
        loss: a row-wise `Loss`, or a function with a ``reduction`` argument; it takes `logits`, and of `target` and
            `teacher_logits` what there is and it asks for.
        hidden: [..., D] hidden states.
        weight: [V, D] the head's weight.
        target: [...] int64 class indices, or None for a loss without.
        bias: [V], or None.
        teacher: gives the teacher's logits of a chunk, as `teacher_logits`.
        ignore_index: tokens with this target count for nothing; by default the loss's own, or -100.
        reduction: by default the loss's own, or "mean"; the mean is over the kept tokens.
        normalizer: what the mean divides by instead of the count of its tokens.
        chunk: tokens held at once; chosen by default.
        accum_dtype: what the weight's gradient gathers in over the chunks; by default its own.
        impl: "chunked" takes the loss's hand-written gradient if it has one, "autograd" never, "reference" holds the
            logits of all tokens, "auto" is "chunked".

    Returns:
        The loss in float32 (float64 for float64).

    Raises:
        ValueError: a batch-coupled loss, one with parameters to learn or class weights, or tensors that don't fit.

    Example:
        >>> from lightning_losses.losses import StableMaxCrossEntropy
        >>> value = chunked_head(StableMaxCrossEntropy(), torch.eye(3, 4), torch.ones(5, 4), torch.tensor([0, 1, 2]))
        >>> round(value.item(), 4)
        1.6094
    """
    name = getattr(loss, "__name__", type(loss).__name__)
    settled_reduction: Reduction = reduction if reduction is not None else getattr(loss, "reduction", "mean")
    ignored = ignore_index if ignore_index is not None else getattr(loss, "ignore_index", -100)
    check_choice(name, "reduction", settled_reduction, Reduction)
    check_choice(name, "impl", impl, ChunkedImpl)
    if normalizer is not None and settled_reduction != "mean":
        raise ValueError(
            f"{name}: normalizer={normalizer} came with reduction={settled_reduction!r}; it divides a mean."
        )
    if normalizer is not None and not isinstance(normalizer, Tensor):
        check_number(name, "normalizer", normalizer, above=0)
    if chunk is not None and chunk < 1:
        raise ValueError(f"{name}: chunk={chunk} came; give at least 1.")
    _check_row_wise(name, loss)
    shape = hidden.shape[:-1]
    check_head(name, hidden, weight, hidden.new_zeros(shape, dtype=torch.int64) if target is None else target, bias)
    hidden, weight, bias = autocast(hidden, weight, bias)
    rows, index = hidden.reshape(-1, hidden.shape[-1]), None
    if target is not None:
        target = target.reshape(-1)
        kept = target != ignored
        check_targets(name, target, kept, len(weight), ignored)
        index = kept.nonzero().squeeze(1)
        if len(index) < len(target):
            rows, target = rows[index], target[index]
            teacher = None if teacher is None else teacher.select(index)
    step = max(len(rows), 1) if impl == "reference" else chunk or default_chunk(len(rows), weight, full=True)
    evaluator = evaluator_of(loss) if impl in ("auto", "chunked") else None
    plan = Plan(_by_rows(loss, ignored), evaluator, loss, teacher, step, accum_dtype)
    scale = _scale(settled_reduction, normalizer, rows)
    with torch.autocast(hidden.device.type, enabled=False):
        if settled_reduction != "none":
            made: Tensor = ChunkedHead.apply(rows, weight, bias, target, plan, scale, torch.is_grad_enabled())
            return made
        values: Tensor = ChunkedRows.apply(rows, weight, bias, target, plan)
    if index is None:
        return values.reshape(shape)
    return values.new_zeros(shape.numel()).index_put((index,), values).reshape(shape)


def _check_row_wise(name: str, loss: RowLoss) -> None:
    if getattr(loss, "batch_coupled", False):
        raise ValueError(
            f"{name}: it couples the samples of a batch, so that chunks of it can't stand alone; give a "
            "row-wise loss, or evaluate it on the logits."
        )
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise ValueError(
            f"{name}: it has parameters to learn, whose gradients chunks would not give; evaluate it on the logits."
        )
    if getattr(loss, "class_weight", None) is not None:
        raise ValueError(
            f"{name}: class_weight makes its mean more than a mean over tokens; use "
            "linear_cross_entropy(..., class_weight=...)."
        )


def _by_rows(loss: RowLoss, ignore_index: int) -> RowLoss:
    """The loss without its reduction, of those tensors that it takes."""
    single: RowLoss
    if isinstance(loss, nn.Module):
        if "reduction" not in vars(loss):
            raise ValueError(
                f"{type(loss).__name__}: it has no reduction, so its rows are not to be had; give a row-wise loss."
            )
        single = copy.copy(loss)
        settings: dict[str, Any] = {"reduction": "none", "ignore_index": ignore_index}
        for name in settings.keys() & vars(loss).keys():
            setattr(single, name, settings[name])
        takes = inspect.signature(loss.forward).parameters
    else:
        single, takes = partial(loss, reduction="none"), inspect.signature(loss).parameters

    def rows(**tensors: Tensor | None) -> Tensor:
        return single(**{name: tensor for name, tensor in tensors.items() if tensor is not None and name in takes})

    return rows


def _scale(reduction: Reduction, normalizer: float | Tensor | None, rows: Tensor) -> float | Tensor:
    if reduction != "mean":
        return 1.0
    if isinstance(normalizer, Tensor):
        return 1.0 / normalizer.detach().to(rows.device, statistics_dtype(rows))
    return 1.0 / (normalizer if normalizer is not None else max(len(rows), 1))


class Plan(NamedTuple):
    """What is evaluated on each chunk, and how."""

    by_rows: RowLoss
    evaluator: Evaluator | None
    loss: Any
    teacher: Teacher | None
    chunk: int
    accum_dtype: torch.dtype | None

    def evaluate(self, chunk: Callable[[], Chunk], wanted: bool) -> Outcome:
        """A chunk's values, and their gradients by the scores, tile by tile; by hand if possible."""
        if self.evaluator is not None:
            outcome = self.evaluator(self.loss, chunk())
            if bool(outcome.values.isfinite().all()):
                return outcome
            del outcome
        scores = chunk()
        logits = torch.cat(list(scores.student), dim=1).requires_grad_(wanted)
        teacher = list(scores.teacher)
        with torch.set_grad_enabled(wanted):
            values = self.by_rows(
                logits=logits, teacher_logits=torch.cat(teacher, dim=1) if teacher else None, target=scores.target
            )
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
    plan: Plan,
    share: float | Tensor,
    wanted: tuple[bool, bool, bool],
) -> Walked:
    """Evaluate a plan on every chunk of rows.

    Args:
        hidden: [N, D], none ignored.
        weight: [V, D].
        bias: [V] or None.
        target: [N] or None.
        plan: what is evaluated.
        share: what each row's value weighs in the sum whose gradients are made; a number, [] or [N].
        wanted: which of hidden, weight and bias need a gradient.
    """
    head = Head(weight, bias, Terms(len(weight)), beside_teacher=plan.teacher is not None)
    values = hidden.new_zeros(len(hidden), dtype=head.statistics)
    grad_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format) if wanted[0] else None
    half = torch.float32 if weight.dtype == torch.float16 else weight.dtype
    grad_weight = torch.empty_like(weight, dtype=plan.accum_dtype or half) if wanted[1] else None
    grad_bias = weight.new_zeros(len(weight), dtype=head.statistics) if wanted[2] and bias is not None else None
    if grad_weight is not None and len(hidden) == 0:
        grad_weight.zero_()
    # In half precision every tile's product would be rounded by itself; all tiles in one product are rounded once.
    at_once = head.dtype == weight.dtype == torch.bfloat16
    # Every chunk's scores and gradients lie here: memory asked for anew would be cleared anew.
    size = min(plan.chunk, len(hidden)) * len(weight)
    networks = 1 if plan.teacher is None else 2
    space = weight.new_empty(networks if plan.evaluator else 0, size, dtype=head.statistics)
    whole_space = weight.new_empty(size if at_once and any(wanted) else 0, dtype=head.dtype)

    def placed(scores: Iterator[Tensor], network: int, count: int) -> Iterator[Tensor]:
        for tile, found in zip(head.tiles, scores, strict=False):
            if plan.evaluator is None:
                yield found.to(head.statistics)
            else:
                place = space[network, tile.start * count : tile.stop * count].view(count, -1)
                yield place.copy_(found)

    def add(rows: slice) -> None:
        # A function, so that all it makes is gone when the next chunk asks for memory.
        e = hidden[rows].to(head.dtype)

        def chunk() -> Chunk:
            student = (head.scores(e, tile, full=bias is not None)[0] for tile in head.tiles)
            teacher = iter(()) if plan.teacher is None else plan.teacher.scores(rows, head.tiles, head.statistics)
            return Chunk(
                placed(student, 0, len(e)),
                placed(teacher, 1, len(e)),
                None if target is None else target[rows],
                head.tiles,
            )

        outcome = plan.evaluate(chunk, any(wanted))
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

    for rows in spans(len(hidden), plan.chunk) if len(hidden) else ():
        add(rows)
    return Walked(
        values,
        grad_hidden,
        None if grad_weight is None else grad_weight.to(weight.dtype),
        None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
    )


class ChunkedHead(torch.autograd.Function):
    """The weighted sum of the rows' values, with its gradients made in forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor | None,
        plan: Plan,
        scale: float | Tensor,
        learns: bool,
    ) -> Tensor:
        """The loss."""
        ctx.wanted = tuple(learns and t is not None and t.requires_grad for t in (hidden, weight, bias))
        made = walk(hidden, weight, bias, target, plan, scale, ctx.wanted)
        ctx.made, ctx.plan, ctx.scale = made[1:], plan, scale
        ctx.save_for_backward(hidden, weight, bias, target)
        return scale * made.values.sum()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Each gradient times the upstream one; given away in the first backward pass, made again in a later one."""
        refuse_second_order("chunked")
        hidden, weight, bias, target = ctx.saved_tensors
        made, ctx.made = ctx.made, None
        if made is None:
            made = walk(hidden, weight, bias, target, ctx.plan, ctx.scale, ctx.wanted)[1:]
        return (*scaled(made, upstream[0]), None, None, None, None)


class ChunkedRows(torch.autograd.Function):
    """Each row's value; backward walks again, once it knows what gradient each row receives."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor | None, plan: Plan
    ) -> Tensor:
        """The values."""
        ctx.save_for_backward(hidden, weight, bias, target)
        ctx.plan = plan
        return walk(hidden, weight, bias, target, plan, 1.0, (False, False, False)).values

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, from the scores made again."""
        refuse_second_order("chunked")
        hidden, weight, bias, target = ctx.saved_tensors
        made = walk(hidden, weight, bias, target, ctx.plan, upstream[0], ctx.needs_input_grad[:3])
        return (*made[1:], None, None)
