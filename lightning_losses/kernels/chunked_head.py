"""Any row-wise loss of a classifier head by chunks of tokens: the [tokens, vocabulary] logits are never held."""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.cross_entropy.problem import Impl
from lightning_losses.kernels.inputs import check_chunk
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.rows.gradients import Parts
from lightning_losses.kernels.rows.head_loss import ChunkedImpl as ChunkedImpl
from lightning_losses.kernels.rows.head_loss import head_loss
from lightning_losses.kernels.rows.row_wise import RowFunction, cross_entropy_options
from lightning_losses.kernels.rows.teachers import Teacher
from lightning_losses.kernels.terms import statistics_dtype
from lightning_losses.kernels.traced import Returned, traceable
from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.reduction import Reduction


def returned(arguments: dict[str, Any]) -> Returned:
    """The kind of result for these arguments, by name."""
    loss, reduction = arguments["loss"], arguments.get("reduction")
    if reduction is None:
        reduction = loss.reduction if isinstance(loss, RowLoss) else "mean"
    return Returned(None, ("loss",), (reduction == "none",), tuple(arguments["hidden"].shape[:-1]))


@traceable(returned)
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
    drop_ignored: bool | None = None,
    softcap: float | None = None,
    teacher_softcap: float | None = None,
    impl: ChunkedImpl = "auto",
) -> Float[Tensor, "..."]:
    """``loss(logits=hidden @ weight.T + bias, target=target)`` without ever holding these logits.

    The loss is evaluated on one chunk of tokens at a time, and the gradient by the chunk's logits is multiplied at
    once with the head and the hidden states: three products, and memory for one chunk.

    Args:
        loss: a row-wise `Loss`, or a function with a ``reduction`` argument; it takes `logits`, and also `target` and
            `teacher_logits` if they are given and it has arguments of these names.
        hidden: [..., D] hidden states.
        weight: [V, D] the head's weight.
        target: [...] int64 class indices, or None for a loss that takes none.
        bias: [V], or None.
        teacher: gives the teacher's logits of a chunk, as `teacher_logits`.
        ignore_index: tokens with this target are ignored; by default the loss's own value, or -100.
        reduction: by default the loss's own, or "mean"; the mean is over the kept tokens.
        normalizer: the divisor of the mean; by default the count of its tokens.
        chunk: tokens held at once; chosen by default.
        accum_dtype: the dtype in which the weight's gradient is accumulated over the chunks; by default its own.
        drop_ignored: whether ignored tokens are dropped before the product. This saves their products, but the host
            must wait for a GPU to count them; by default only on a CPU, where it costs nothing.
        softcap: s: logits become ``s tanh(l / s)``, as Gemma's do; evaluated by autograd, except in functions of
            cross-entropy.
        teacher_softcap: the same for a teacher that is given by its head.
        impl: "triton" runs one kernel on the scores of student and teacher, if it implements the divergence; "avx512"
            does the same in C++ on a CPU with AVX-512; "chunked" uses the loss's hand-written gradient on a CPU, if
            there is one; "autograd" never does; "reference" holds the logits of all tokens. "auto" is "triton" on CUDA
            and "avx512" on AMD's CPUs if these can evaluate the loss, else "chunked". Except for "autograd", a function
            of cross-entropy, such as focal loss, is evaluated by `linear_cross_entropy`.

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
    check_chunk("chunked_head", chunk)
    options = cross_entropy_options(loss) if teacher is None and impl != "autograd" else None
    if options is not None and options.offset is not None:
        # A softcap is on the logits without the offset.
        if softcap is None:
            offset = options.offset(len(weight)).to(weight.device, statistics_dtype(weight))
            bias = offset if bias is None else bias + offset
        else:
            options = None
    if options is not None and isinstance(loss, RowLoss) and target is not None:
        return linear_cross_entropy(
            hidden,
            weight,
            target,
            bias,
            ignore_index=loss.ignore_index if ignore_index is None else ignore_index,
            reduction=loss.reduction if reduction is None else reduction,
            normalizer=normalizer,
            chunk=chunk,
            accum_dtype=accum_dtype,
            drop_ignored=drop_ignored,
            impl=cast(Impl, impl),
            label_smoothing=options.label_smoothing,
            row_function=options.row_function,
            temperature=options.temperature,
            softcap=softcap,
        )
    return head_loss(
        loss,
        hidden,
        weight,
        target,
        bias,
        parts=Parts(),
        teacher=teacher,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
        chunk=chunk,
        accum_dtype=accum_dtype,
        drop_ignored=drop_ignored,
        impl=impl,
        softcaps=(softcap, teacher_softcap),
        door="chunked_head",
    ).loss
