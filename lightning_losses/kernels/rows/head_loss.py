"""A row-wise loss of a head, with cross-entropy if requested, by the walk that suits the loss and the device."""

from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_losses.kernels.autograd import Operands, gradients_in_forward
from lightning_losses.kernels.cross_entropy.walk import default_chunk
from lightning_losses.kernels.inputs import (
    autocast,
    check_accum_dtype,
    check_cached_classes,
    check_chunk,
    check_classes_of_head,
    check_head,
    check_normalizer,
    choose_rows,
    scales,
    unmasked_classes,
)
from lightning_losses.kernels.rows import avx512
from lightning_losses.kernels.rows.by_hand import evaluator_of
from lightning_losses.kernels.rows.gradients import ChunkedRows, Parts, Walk, refuse_higher, scaled_sum
from lightning_losses.kernels.rows.objectives import objective_of
from lightning_losses.kernels.rows.row_wise import RowFunction, check_function, refuses, rows_of
from lightning_losses.kernels.rows.teachers import Teacher, TeacherHead, TopKLogits
from lightning_losses.kernels.rows.triton import refuses_kernel
from lightning_losses.kernels.rows.walk import ChunkLoss, Softcaps, walk
from lightning_losses.kernels.terms import statistics_dtype
from lightning_losses.losses.base import Loss
from lightning_losses.losses.kinds import ClassificationLoss, RowLoss, TaughtLoss
from lightning_losses.numerics.checks import check_choice, check_number
from lightning_losses.numerics.derivatives import refuse_transforms
from lightning_losses.numerics.reduction import Reduction
from lightning_losses.numerics.rows import required_target

ChunkedImpl = Literal["auto", "reference", "avx512", "chunked", "autograd", "triton"]


class HeadLoss(NamedTuple):
    """The weighted loss, and its two parts (the loss and cross-entropy) before weighting, without gradient."""

    loss: Float[Tensor, "*tokens"]
    parts: Float[Tensor, "parts *tokens"]


def head_loss(
    loss: RowFunction,
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, "*tokens"] | None,
    bias: Float[Tensor, " vocabulary"] | None,
    *,
    parts: Parts,
    teacher: Teacher | None,
    ignore_index: int | None,
    reduction: Reduction | None,
    normalizer: float | Tensor | None,
    chunk: int | None,
    accum_dtype: torch.dtype | None,
    drop_ignored: bool | None,
    impl: ChunkedImpl,
    softcaps: Softcaps = (None, None),
    door: str,
) -> HeadLoss:
    """As `chunked_head`, plus cross-entropy from the same scores, with the weights in `parts`.

    Its errors begin with the loss's name; those about derivatives with `door`, the function that was called.
    """
    name = getattr(loss, "__name__", type(loss).__name__)
    own = (loss.reduction, loss.ignore_index) if isinstance(loss, RowLoss) else ("mean", -100)
    settled_reduction: Reduction = own[0] if reduction is None else reduction
    ignored = own[1] if ignore_index is None else ignore_index
    check_choice(name, "reduction", settled_reduction, Reduction)
    check_choice(name, "impl", impl, ChunkedImpl)
    check_normalizer(name, normalizer, settled_reduction)
    check_chunk(name, chunk)
    check_accum_dtype(name, accum_dtype)
    if refusal := refuses(loss):
        raise ValueError(f"{name}: {refusal}")
    if isinstance(loss, Loss) and loss.inputs().get("target"):
        required_target(name, target)
    shape = hidden.shape[:-1]
    check_head(name, hidden, weight, hidden.new_zeros(shape, dtype=torch.int64) if target is None else target, bias)
    if isinstance(loss, (ClassificationLoss, TaughtLoss)):
        check_classes_of_head(name, len(weight), loss.least_classes)
    hidden, weight, bias = autocast(hidden, weight, bias)
    if not isinstance(loss, nn.Module):
        like = weight.new_empty(0, dtype=statistics_dtype(weight))
        check_function(name, rows_of(loss, ignored), like, len(weight), teacher is not None)
    capped = _check_softcaps(name, softcaps, impl, bias, teacher)
    compiled = None if capped else _compiled(name, impl, loss, hidden, weight, teacher, accum_dtype)
    rows = hidden.reshape(-1, hidden.shape[-1])
    index: Int[Tensor, " kept"] | None = None
    kept: Bool[Tensor, " tokens"] | None = None
    if target is not None:
        rows, target, index, kept = choose_rows(name, hidden, target, len(weight), ignored, drop_ignored)
        if teacher is not None and index is not None:
            teacher = teacher.select(index)
        if teacher is not None and kept is not None:
            teacher = teacher.masked(kept)
    if isinstance(teacher, TopKLogits):
        check_cached_classes(name, teacher.classes, len(weight), kept)
    operands = Operands(rows, weight, bias, target)
    scale, _ = scales(rows, settled_reduction, normalizer, kept=kept)
    evaluate: Walk
    if compiled is not None:
        evaluate = partial(
            compiled,
            kept=kept,
            teacher=teacher,
            objective=objective_of(loss),
            parts=parts,
            chunk=chunk,
            accum_dtype=accum_dtype,
        )
    else:
        on_cpu = weight.device.type == "cpu"
        hands = impl in ("auto", "chunked") and (on_cpu or not parts.hard) and not capped
        by_hand = evaluator_of(loss, on_cpu) if hands else None
        step = max(len(rows), 1) if impl == "reference" else chunk or default_chunk(len(rows), weight, full=True)
        of_chunk = ChunkLoss(rows_of(loss, ignored), by_hand, teacher, parts, step, accum_dtype, kept, softcaps)
        evaluate = partial(walk, loss=of_chunk)
    who, remedy = f"{door}: {name} by impl={impl!r}", "the loss itself its logits"
    refuse_transforms(who, remedy)
    with torch.autocast(hidden.device.type, enabled=False):
        if settled_reduction != "none":
            summed = partial(scaled_sum, walk=evaluate, parts=parts, scale=scale)
            reduced = HeadLoss(*gradients_in_forward(summed, "chunked", operands))
            refuse_higher(reduced.loss, who, remedy)
            return reduced
        values, of_parts = ChunkedRows.apply(*operands, evaluate, parts)
        refuse_higher(values, who, remedy)
    if index is not None:
        values = values.new_zeros(shape.numel()).index_put((index,), values)
        of_parts = of_parts.new_zeros(len(of_parts), shape.numel()).index_copy_(1, index, of_parts)
    return HeadLoss(values.reshape(shape), of_parts.reshape(len(of_parts), *shape))


def _check_softcaps(
    name: str, softcaps: Softcaps, impl: ChunkedImpl, bias: Float[Tensor, " vocabulary"] | None, teacher: Teacher | None
) -> bool:
    """Whether there are softcaps; refuses softcaps of 0 or less and options that exclude a softcap."""
    for which, softcap in zip(("softcap", "teacher_softcap"), softcaps, strict=True):
        if softcap is not None:
            check_number(name, which, softcap, above=0)
    unmasked_classes(name, bias, 0.0, softcaps[0])
    if softcaps[1] is not None and not isinstance(teacher, TeacherHead):
        raise ValueError(
            f"{name}: teacher_softcap={softcaps[1]} came without a teacher's head; given logits are not capped, so "
            "leave it out."
        )
    capped = softcaps != (None, None)
    if capped and impl in ("avx512", "triton"):
        raise ValueError(f"{name}: a softcap came with impl={impl!r}, which has none; give 'auto' or 'chunked'.")
    return capped


def _compiled(
    name: str,
    impl: ChunkedImpl,
    loss: RowFunction,
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    teacher: Teacher | None,
    accum_dtype: torch.dtype | None,
) -> Walk | None:
    """The walk for divergences in C++ or Triton, requested or chosen by "auto"; None for the walk in PyTorch."""
    given = (loss, hidden, weight, teacher, accum_dtype)
    if impl == "avx512" or (impl == "auto" and avx512.fastest(*given)):
        if refusal := avx512.refuses_walk(*given):
            raise ValueError(f"{name}: {refusal}")
        return avx512.walk
    refusal = refuses_kernel(loss, weight, teacher)
    if impl == "triton" and refusal:
        raise ValueError(f"{name}: {refusal}")
    if impl == "triton" or (impl == "auto" and weight.device.type != "cpu" and refusal is None):
        from lightning_losses.kernels.rows import triton_walk

        return triton_walk.walk
    return None
