"""Linear cross-entropy of a head whose rows are split over processes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import Summed
from lightning_losses.kernels.cross_entropy.avx512 import AVX512, Avx512Scores, passed_over
from lightning_losses.kernels.cross_entropy.chunked import CHUNKED, TiledScores, sums_and_gradients
from lightning_losses.kernels.cross_entropy.problem import Impl, LinearCrossEntropyValue, Problem, of_sums
from lightning_losses.kernels.cross_entropy.triton import TRITON, runs_on
from lightning_losses.kernels.cross_entropy.walk import default_chunk
from lightning_losses.kernels.inputs import (
    autocast,
    check_accum_dtype,
    check_chunk,
    check_class_weight,
    check_classes_of_head,
    check_head,
    check_normalizer,
    choose_rows,
    scales,
    shifted,
    unmasked_classes,
)
from lightning_losses.kernels.products import has_triton
from lightning_losses.kernels.rows.gradients import refuse_higher
from lightning_losses.kernels.terms import Terms, statistics_dtype
from lightning_losses.kernels.traced import Returned, traceable
from lightning_losses.numerics.checks import check_choice, check_number
from lightning_losses.numerics.derivatives import refuse_transforms
from lightning_losses.parallel.processes import (
    even_rows,
    group_rank,
    maximum_of_all,
    row_shard,
    sizes_of_all,
    total_of_all,
)

_NAME = "vocab_parallel_cross_entropy"
# What has the derivatives that this hasn't.
_WHOLE = "the whole head to linear_cross_entropy with impl='reference'"


def vocabulary_range(vocabulary: int, rank: int, processes: int) -> range:
    """The rows of the head that a process holds: as even as can be, the first processes with one more.

    Example:
        >>> [vocabulary_range(7, rank, 3) for rank in range(3)]
        [range(0, 3), range(3, 5), range(5, 7)]
    """
    share, extra = divmod(vocabulary, processes)
    start = rank * share + min(rank, extra)
    return range(start, start + share + (rank < extra))


class _Group:
    """Rows' statistics combined over the processes of a group."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def maximum(self, values: Tensor) -> Tensor:
        return maximum_of_all(values, self.group)

    def total(self, values: Tensor) -> Tensor:
        return total_of_all(values, self.group)


def vocab_parallel_cross_entropy(
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "shard width"],
    target: Int[Tensor, "*tokens"],
    bias: Float[Tensor, " shard"] | None = None,
    *,
    group: Any = None,
    sizes: Sequence[int] | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    class_weight: Float[Tensor, " vocabulary"] | None = None,
    shift: int | bool = 0,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
    chunk: int | None = None,
    accum_dtype: torch.dtype | None = None,
) -> LinearCrossEntropyValue:
    """`linear_cross_entropy` of a head whose rows lie on several processes, in rank order.

    Every process calls it with the same tokens and its own rows of the head. For each token the processes exchange two
    numbers for the logsumexp, two for the target and, with label smoothing, one more. The gradient of the hidden states
    is summed over the processes, so that each has all of it. Splits may be uneven. The loss is evaluated in chunks of
    tokens, with the gradients in forward; each process uses "avx512" if `linear_cross_entropy` would, else "chunked".

    Args:
        hidden: [..., T, D], the same on every process.
        weight: [V_r, D] this process's rows, or a DTensor that is Shard(0) on a 1-D mesh.
        target: [..., T] ids in the whole vocabulary, the same on every process.
        bias: [V_r] of this process's rows, or a DTensor that is split like the weight, or None.
        group: the process group; by default the DTensor's, or the group of all processes.
        sizes: how many rows each process holds, in rank order, such as ``[len(vocabulary_range(V, rank, processes))
            for rank in range(processes)]``. A DTensor knows the sizes; otherwise, by default, every call asks the
            other processes and waits for the answer.
        class_weight: [V] of the whole vocabulary.
        reduction: "mean" or "sum".
        ignore_index, label_smoothing, softcap, z_loss, shift, normalizer, chunk, accum_dtype: as for
            `linear_cross_entropy`.

    Returns:
        The loss, the same on every process, and the z-loss's part of it.

    Raises:
        ValueError: shapes, dtypes or ranges that do not fit; sizes other than the processes'; a DTensor that is not
            split by rows.

    Source:
        The vocab-parallel option of apple/ml-cross-entropy, without its restriction to plain tensors. torch's
        `loss_parallel` has no label smoothing.

    Example:
        >>> hidden, weight = torch.eye(3, 4), torch.ones(5, 4)
        >>> round(vocab_parallel_cross_entropy(hidden, weight, torch.tensor([0, 1, 2])).loss.item(), 4)
        1.6094
    """
    split = even_rows(weight)
    weight, own_group = row_shard(weight)
    bias, _ = row_shard(bias)
    return _of_shard(
        hidden,
        weight,
        target,
        bias,
        group=group if group is not None else own_group,
        sizes=split if sizes is None else tuple(sizes),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        softcap=softcap,
        z_loss=z_loss,
        class_weight=class_weight,
        shift=shift,
        reduction=reduction,
        normalizer=normalizer,
        chunk=chunk,
        accum_dtype=accum_dtype,
    )


def _returned(arguments: dict[str, Any]) -> Returned:
    return Returned(LinearCrossEntropyValue, ("loss", "z_loss"), (False, False), ())


@traceable(_returned)
def _of_shard(
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "shard width"],
    target: Int[Tensor, "*tokens"],
    bias: Float[Tensor, " shard"] | None,
    *,
    group: Any,
    sizes: tuple[int, ...] | None,
    ignore_index: int,
    label_smoothing: float,
    softcap: float | None,
    z_loss: float,
    class_weight: Float[Tensor, " vocabulary"] | None,
    shift: int | bool,
    reduction: str,
    normalizer: float | Tensor | None,
    chunk: int | None,
    accum_dtype: torch.dtype | None,
) -> LinearCrossEntropyValue:
    """`vocab_parallel_cross_entropy` of this process's own tensors."""
    refuse_transforms(_NAME, _WHOLE)
    check_choice(_NAME, "reduction", reduction, ("mean", "sum"))
    check_number(_NAME, "label_smoothing", label_smoothing, least=0, most=1)
    check_number(_NAME, "z_loss", z_loss, least=0)
    if softcap is not None:
        check_number(_NAME, "softcap", softcap, above=0)
    check_normalizer(_NAME, normalizer, reduction)
    check_chunk(_NAME, chunk)
    check_accum_dtype(_NAME, accum_dtype)
    check_head(_NAME, hidden, weight, target, bias, empty=True)
    rank = group_rank(group)
    if sizes is None:
        sizes = tuple(sizes_of_all(len(weight), hidden.device, group))
    if not 0 <= rank < len(sizes) or sizes[rank] != len(weight):
        raise ValueError(
            f"{_NAME}: sizes={list(sizes)} came with {len(weight)} rows on process {rank}; give the number of rows of "
            "each process, in rank order."
        )
    vocabulary, start = sum(sizes), sum(sizes[:rank])
    if vocabulary == 0:
        raise ValueError(f"{_NAME}: weight came without rows on every process; give the head's rows.")
    check_classes_of_head(_NAME, vocabulary)
    if class_weight is not None and class_weight.shape != (vocabulary,):
        raise ValueError(
            f"{_NAME}: class_weight of shape {list(class_weight.shape)} came with a vocabulary of "
            f"{vocabulary} over all processes; give shape [{vocabulary}]."
        )
    if class_weight is not None:
        check_class_weight(_NAME, class_weight)
    hidden, target = shifted(_NAME, hidden, target, shift)
    hidden, weight, bias = autocast(hidden, weight, bias)
    rows, flat, _, kept = choose_rows(_NAME, hidden, target, vocabulary, ignore_index)
    whole_bias = None
    if bias is not None and (label_smoothing or softcap is not None):
        # Every process must know all masks, so that all raise the same error.
        whole_bias = bias.new_zeros(vocabulary, dtype=statistics_dtype(weight))
        whole_bias[start : start + len(bias)] = bias.detach()
        whole_bias = total_of_all(whole_bias, group)
    terms = Terms(
        vocabulary,
        float(label_smoothing),
        softcap,
        None if class_weight is None else class_weight.to(hidden.device, statistics_dtype(weight)),
        unmasked=unmasked_classes(_NAME, whole_bias, label_smoothing, softcap),
    )
    scale, z_scale = scales(rows, reduction, normalizer, terms.row_weight(flat), z_loss, kept)
    name, walk = _walk(rows, weight, accum_dtype)
    # All processes use one chunk size: they exchange statistics after each chunk.
    largest = weight.new_empty(1, weight.shape[1]).expand(max(sizes), -1)
    problem = Problem(
        *(rows, weight, flat - start, terms),
        kept=kept,
        bias=bias,
        scale=scale,
        z_scale=z_scale,
        chunk=chunk or default_chunk(len(rows), largest),
        accum_dtype=accum_dtype,
    )
    # Either all processes compute the hidden states' gradient or none does, since they sum it together.
    with torch.autocast(hidden.device.type, enabled=False):
        value = of_sums(walk, name, problem, exchange=_Group(group), start=start)
    refuse_higher(value.loss, _NAME, _WHOLE)
    return value


def _walk(
    hidden: Float[Tensor, "tokens width"], weight: Float[Tensor, "shard width"], accum_dtype: torch.dtype | None
) -> tuple[Impl, Callable[..., Summed]]:
    """The implementation for these tensors, and its walk over the tokens."""
    if has_triton() and runs_on(weight.device):
        from lightning_losses.kernels.cross_entropy import triton_walk

        return TRITON.name, triton_walk.sums_and_gradients
    compiled = passed_over(hidden, weight, accum_dtype) is None
    scores = Avx512Scores if compiled else TiledScores
    return AVX512.name if compiled else CHUNKED.name, partial(sums_and_gradients, scores=scores)
