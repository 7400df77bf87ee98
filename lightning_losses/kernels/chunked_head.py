"""Any row-wise loss of a classifier head by chunks of tokens: the [tokens, vocabulary] logits are never held."""

from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import gradients_in_forward
from lightning_losses.kernels.cross_entropy.chunked import CHUNKED
from lightning_losses.kernels.cross_entropy.walk import default_chunk
from lightning_losses.kernels.inputs import autocast, check_head, check_normalizer, check_targets, scales
from lightning_losses.kernels.rows.by_hand import evaluator_of
from lightning_losses.kernels.rows.row_wise import RowFunction, refuses, rows_of
from lightning_losses.kernels.rows.teachers import Teacher
from lightning_losses.kernels.rows.walk import ChunkedRows, ChunkLoss, scaled_sum
from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.checks import check_choice
from lightning_losses.numerics.reduction import Reduction

ChunkedImpl = Literal["auto", "reference", "chunked", "autograd"]


def chunked_head(
    loss: RowFunction,
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
    own = (loss.reduction, loss.ignore_index) if isinstance(loss, RowLoss) else ("mean", -100)
    settled_reduction: Reduction = own[0] if reduction is None else reduction
    ignored = own[1] if ignore_index is None else ignore_index
    check_choice(name, "reduction", settled_reduction, Reduction)
    check_choice(name, "impl", impl, ChunkedImpl)
    check_normalizer(name, normalizer, settled_reduction)
    if chunk is not None and chunk < 1:
        raise ValueError(f"{name}: chunk={chunk} came; give at least 1.")
    if refusal := refuses(loss):
        raise ValueError(f"{name}: {refusal}")
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
    by_hand = evaluator_of(loss) if impl in ("auto", "chunked") else None
    of_chunk = ChunkLoss(rows_of(loss, ignored), by_hand, teacher, step, accum_dtype)
    scale, _ = scales(rows, settled_reduction, normalizer)
    with torch.autocast(hidden.device.type, enabled=False):
        if settled_reduction != "none":
            summed = partial(scaled_sum, loss=of_chunk, scale=scale)
            return gradients_in_forward(summed, CHUNKED.name, rows, weight, bias, target)[0]
        values: Tensor = ChunkedRows.apply(rows, weight, bias, target, of_chunk)
    if index is None:
        return values.reshape(shape)
    return values.new_zeros(shape.numel()).index_put((index,), values).reshape(shape)
