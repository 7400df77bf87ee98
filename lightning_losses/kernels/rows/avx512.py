"""Distillation from a teacher in C++, for CPUs with AVX-512; compiled at first use.

Both networks' scores of a chunk are computed once and kept in float32. A pass over them completes the gradient in tiles
of the vocabulary, just before the products with the weight and the hidden states use it.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.kernels.autograd import Operands, Wanted
from lightning_losses.kernels.compiled.library import outrun, unsupported
from lightning_losses.kernels.cross_entropy.walk import default_chunk as chunk_of_scores
from lightning_losses.kernels.rows.avx512_pair import SOURCE, Network, ScoredPair
from lightning_losses.kernels.rows.gradients import Parts, Walked
from lightning_losses.kernels.rows.objectives import Objective, objective_of
from lightning_losses.kernels.rows.row_wise import RowFunction
from lightning_losses.kernels.rows.teachers import Teacher, TeacherHead
from lightning_losses.numerics.products import spans


def refuses_walk(
    loss: RowFunction,
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    teacher: Teacher | None,
    accum_dtype: torch.dtype | None,
) -> str | None:
    """Why the walk can't evaluate a loss on a head, as a sentence; None if it can."""
    if teacher is None or objective_of(loss) is None:
        return "impl='avx512' is for divergences from a teacher, and has no functions for this one; use 'auto'."
    missing = unsupported(SOURCE, hidden, weight, accum_dtype)
    return None if missing is None else f"impl='avx512' can't take this: {missing}; use 'chunked'."


def fastest(
    loss: RowFunction,
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    teacher: Teacher | None,
    accum_dtype: torch.dtype | None,
) -> bool:
    """Whether ``impl="auto"`` chooses this walk."""
    return outrun(weight.dtype) is None and refuses_walk(loss, hidden, weight, teacher, accum_dtype) is None


def default_chunk(tokens: int, weight: Float[Tensor, "vocabulary width"]) -> int:
    """Tokens in a chunk: as with a teacher in PyTorch, but in whole panels of 64, and at least 128."""
    return max(chunk_of_scores(tokens, weight, full=True) // 64 * 64, 128)


def walk(
    operands: Operands,
    *,
    share: float | Tensor,
    wanted: Wanted,
    kept: Bool[Tensor, " rows"] | None,
    teacher: Teacher,
    objective: Objective,
    parts: Parts,
    chunk: int | None,
    accum_dtype: torch.dtype | None,
) -> Walked:
    """Evaluate a divergence on every chunk of rows.

    Args:
        operands: rows, the head, and targets, if the loss takes them.
        share: the weight of each row's value in the sum that is differentiated; a number, [] or [N].
        wanted: which of hidden, weight and bias need a gradient.
        kept: [N] which rows count, or None for all; hidden states of other rows may hold NaN.
        teacher: the source of its scores.
        objective: the divergence.
        parts: the weights of divergence and cross-entropy.
        chunk: rows per chunk; by default `default_chunk`.
        accum_dtype: the dtype that accumulates the weight's gradient; by default its own dtype.
    """
    hidden, weight, bias, target = operands
    tokens, vocabulary = len(hidden), len(weight)
    shares = hidden.new_ones(tokens, dtype=torch.float32) * share
    if kept is not None:
        shares = torch.where(kept, shares, 0.0)
    values = hidden.new_zeros(2 if parts.hard else 1, tokens, dtype=torch.float32)
    grad_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format) if wanted[0] else None
    grad_weight = torch.empty_like(weight, dtype=accum_dtype or weight.dtype) if wanted[1] else None
    grad_bias = weight.new_zeros(vocabulary, dtype=torch.float32) if wanted[2] and bias is not None else None
    if grad_weight is not None and tokens == 0:
        grad_weight.zero_()
    step = min(chunk or default_chunk(tokens, weight), max(tokens, 1))
    # All chunks reuse this memory for scores, because new memory would be cleared.
    space = weight.new_empty(2, vocabulary * -(-step // 16) * 16, dtype=torch.float32)
    head = Network(None, weight, None if bias is None else bias.float().contiguous(), space)
    labelled = parts.hard > 0 or objective.name == "nkd"
    shifted = False

    def networks(rows: slice) -> tuple[Network, Network]:
        students = hidden[rows]
        stride = -(-len(students) // 16) * 16
        of_student, of_teacher = (part[: vocabulary * stride].view(vocabulary, stride) for part in space)
        counts = None if kept is None else kept[rows].unsqueeze(1)
        if counts is not None:
            # Their share is 0, but 0 times NaN is NaN.
            students = torch.where(counts, students, 0.0)
        return (
            head._replace(hidden=students.contiguous(), scores=of_student),
            _teachers(teacher, rows, counts, head._replace(bias=None, scores=of_teacher)),
        )

    for rows in spans(tokens, step) if tokens else ():
        labels = target[rows].contiguous() if target is not None and labelled else None
        pair = ScoredPair(networks(rows), labels, objective, hard=parts.hard > 0, shifted=shifted)
        shifted = pair.shifted
        slopes = pair.slopes()
        value, of_target = objective.factor * slopes.values, None
        if labelled:
            cross_entropy = pair.whole[0] - pair.picked[0]
            of_target = torch.full_like(value, parts.hard)
            if pair.excluding:
                sure = (pair.picked[1] - pair.whole[1]).exp()
                value, of_target = value + sure * cross_entropy, of_target + parts.soft * sure
            values[-1, rows] = cross_entropy
        values[0, rows] = value
        if not any(wanted):
            continue
        drawn = pair.gather(
            slopes,
            slope_weight=parts.soft * objective.factor / objective.temperature,
            of_target=of_target,
            share=shares[rows],
            weight=grad_weight,
            bias=grad_bias,
            want_hidden=grad_hidden is not None,
            first=rows.start == 0,
        )
        if grad_hidden is not None and drawn is not None:
            grad_hidden[rows] = drawn
    if kept is not None:
        values = torch.where(kept, values, 0.0)
    return Walked(
        values,
        grad_hidden,
        None if grad_weight is None else grad_weight.to(weight.dtype),
        None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
    )


def _teachers(teacher: Teacher, rows: slice, kept: Bool[Tensor, "rows 1"] | None, place: Network) -> Network:
    """The teacher's chunk: its operands if it is a head of the student's dtype, otherwise its scores.

    Args:
        teacher: the teacher.
        rows: the chunk's rows.
        kept: which rows count, or None for all.
        place: the student's head, and the memory for the teacher's scores.
    """
    if isinstance(teacher, TeacherHead) and teacher.weight.dtype == place.weight.dtype:
        states = teacher.hidden[rows] if kept is None else torch.where(kept, teacher.hidden[rows], 0.0)
        bias = None if teacher.bias is None else teacher.bias.float().contiguous()
        return Network(states.contiguous(), teacher.weight.contiguous(), bias, place.scores)
    tiles = list(spans(len(place.weight), 1024))
    for tile, scores in zip(tiles, teacher.scores(rows, tiles, torch.float32), strict=True):
        whole = scores if kept is None else torch.where(kept, scores, 0.0)
        place.scores[tile, : len(whole)] = whole.t()
        # Entries beyond the last row are read, but don't count.
        place.scores[tile, len(whole) :] = 0
    return place
