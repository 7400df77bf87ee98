"""Distillation between two heads by chunks of rows: products by cuBLAS, and one kernel on both chunks of scores.

A chunk's scores are written by a product, then overwritten by the kernel with their gradient. Nothing synchronises with
the device.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_losses.kernels.autograd import Operands, Wanted
from lightning_losses.kernels.cross_entropy.triton_walk import Gradients
from lightning_losses.kernels.products import cuda_chunk, padded_rows
from lightning_losses.kernels.rows.gradients import Parts, Walked
from lightning_losses.kernels.rows.objectives import Objective
from lightning_losses.kernels.rows.teachers import Teacher, largest
from lightning_losses.kernels.rows.triton_kernel import distillation_kernel
from lightning_losses.kernels.rows.triton_objectives import DIVERGENCES
from lightning_losses.numerics.products import spans

BLOCK_BYTES, WARPS, STAGES = 4096, 8, 1
"""Bytes of a row that a program of the kernel reads at once, its warps, and its pipeline stages."""

# Score gradients in float16 are scaled so that a row's share of 1 is this: small entries keep their digits.
_HALF_SHARE = 256.0


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
        chunk: rows per chunk; by default about 512 MiB of scores.
        accum_dtype: the dtype that accumulates the weight's gradient; by default its own dtype, float32 for float16.
    """
    hidden, weight, bias, target = operands
    tokens, vocabulary = len(hidden), len(weight)
    shares = hidden.new_ones(tokens, dtype=torch.float32) * share
    if kept is not None:
        shares = torch.where(kept, shares, 0.0)
    factor: float | Tensor = 1.0
    if weight.dtype == torch.float16 and tokens and any(wanted):
        most = shares.abs().amax()
        half = _HALF_SHARE / max(1.0, parts.hard, parts.soft * abs(objective.factor) / objective.temperature)
        shares = shares * (half / torch.where(most > 0, most, 1.0))
        factor = most / half
    values = hidden.new_empty(2 if parts.hard else 1, tokens, dtype=torch.float32)
    gradients = Gradients(operands, wanted, accum_dtype)
    step = chunk or cuda_chunk(tokens, vocabulary, weight.element_size(), weight.device)
    cuts = list(spans(tokens, step)) if tokens else []
    space = padded_rows(hidden, largest(cuts), vocabulary)
    for rows, teacher_scores in zip(cuts, teacher.matrices(cuts, vocabulary), strict=True):
        e = hidden[rows]
        if kept is not None:
            # Their share is 0, but 0 times NaN is NaN.
            e = torch.where(kept[rows].unsqueeze(1), e, 0.0)
        scores = torch.mm(e, weight.t(), out=space[: len(e)])
        _launch(
            scores,
            teacher_scores,
            (bias, teacher.bias),
            None if target is None else target[rows],
            shares[rows],
            values[:, rows],
            objective,
            parts,
            any(wanted),
        )
        if any(wanted):
            gradients.add(rows, e, scores)
    return Walked(values, *gradients.finished(), factor)


def _launch(
    student: Float[Tensor, "rows vocabulary"],
    teacher: Float[Tensor, "rows vocabulary"],
    biases: tuple[Tensor | None, Tensor | None],
    target: Int[Tensor, " rows"] | None,
    share: Float[Tensor, " rows"],
    values: Float[Tensor, "parts rows"],
    objective: Objective,
    parts: Parts,
    gradient: bool,
) -> None:
    """Run the kernel on a chunk: it writes `values`, and overwrites the student's scores by their gradient."""
    divergence = DIVERGENCES[objective.name]
    temperature = objective.temperature
    block = BLOCK_BYTES // student.element_size()
    with torch.cuda.device_of(student):  # type: ignore[no-untyped-call]
        distillation_kernel[(len(student),)](
            student,
            teacher,
            # The kernel reads vectors without strides.
            student if biases[0] is None else biases[0].contiguous(),
            teacher if biases[1] is None else biases[1].contiguous(),
            share if target is None else target.contiguous(),
            share,
            values[0],
            values[-1],
            math.log2(math.e) / temperature,
            objective.a,
            objective.b,
            objective.factor,
            parts.soft * objective.factor / temperature,
            parts.soft,
            parts.hard,
            SLOPE=divergence.slope,
            TERM=divergence.term,
            FORWARD=divergence.forward,
            REVERSE=divergence.reverse,
            EXCLUDE=divergence.excluding,
            HARD=parts.hard > 0,
            SOFTENED=temperature != 1,
            GRADIENT=gradient,
            STUDENT_BIAS=biases[0] is not None,
            TEACHER_BIAS=biases[1] is not None,
            VOCABULARY=student.shape[1],
            STUDENT_STRIDE=student.stride(0),
            TEACHER_STRIDE=teacher.stride(0),
            TEACHER_WIDTH=_readable(teacher),
            BLOCK=block,
            STAGES=STAGES,
            num_warps=WARPS,
        )


def _readable(matrix: Float[Tensor, "rows columns"]) -> int:
    """The readable width of a row: rounded up to 16 entries for wide loads, if that memory exists."""
    rows, columns = matrix.shape
    padded = -(-columns // 16) * 16
    end = matrix.storage_offset() + (rows - 1) * matrix.stride(0) + padded
    fits = matrix.stride(0) % 16 == 0 and end * matrix.element_size() <= matrix.untyped_storage().nbytes()
    return padded if fits else columns
