"""The rows that a loss works on: checked, in full precision, with ignored ones made harmless."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_floating, debugging
from lightning_losses.numerics.probabilities import full_precision, known_everywhere


class Rows(NamedTuple):
    """What a classification loss works on, checked, in full precision, with ignored rows made harmless."""

    logits: Float[Tensor, "*rows classes"]
    target: Shaped[Tensor, "..."] | None
    kept: Bool[Tensor, "*rows"] | None


def classification_rows(
    loss: str, logits: Float[Tensor, "*rows classes"], target: Shaped[Tensor, "..."] | None, ignore_index: int = -100
) -> Rows:
    """Check logits against a target and neutralise the rows whose target is `ignore_index`.

    Args:
        loss: the name that errors begin with.
        logits: [..., C] floating-point scores.
        target: [...] class indices, [..., C] probabilities, or None (no row is ignored then).
        ignore_index: rows with this target count for nothing; their logits and target are set to 0.

    Returns:
        Logits in float32 or float64; the target without `ignore_index`; the mask of kept rows, None if all are known
        to be kept.

    Raises:
        ValueError: dtypes or shapes that do not fit; under `debug`, targets outside [0, C) and NaN logits.
    """
    check_floating(loss, "logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{loss}: logits have shape {list(logits.shape)}; give [..., C] with C of at least 1.")
    logits = full_precision(logits)
    if debugging() and bool(torch.isnan(logits).any()):
        raise ValueError(f"{loss}: logits hold NaN; find the layer that made it before the loss hides it.")
    if target is None:
        return Rows(logits, None, None)
    if target.is_floating_point():
        if target.shape != logits.shape:
            raise ValueError(
                f"{loss}: a floating-point target of shape {list(target.shape)} came with logits of shape "
                f"{list(logits.shape)}; probabilities have the shape of the logits, indices are int64."
            )
        return Rows(logits, target.to(logits.dtype), None)
    if target.dtype != torch.int64:
        raise ValueError(
            f"{loss}: target has dtype {target.dtype}; give int64 class indices or floating-point probabilities."
        )
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"{loss}: target of shape {list(target.shape)} came with logits of shape "
            f"{list(logits.shape)}; class indices have shape {list(logits.shape[:-1])}."
        )
    kept = target != ignore_index
    if debugging():
        classes = logits.shape[-1]
        bad = kept & ((target < 0) | (target >= classes))
        if bool(bad.any()):
            raise ValueError(
                f"{loss}: target {int(target[bad][0])} came with {classes} classes; give 0 to "
                f"{classes - 1}, or ignore_index={ignore_index}."
            )
    if known_everywhere(kept):
        return Rows(logits, target, None)
    # An ignored row may hold anything, also inf: zeros keep its (discarded) value and gradient finite.
    return Rows(logits.masked_fill(~kept.unsqueeze(-1), 0.0), target.masked_fill(~kept, 0), kept)


class PairedRows(NamedTuple):
    """`Rows` of a student beside the teacher's, which carry no gradient."""

    logits: Float[Tensor, "*rows classes"]
    teacher_logits: Float[Tensor, "*rows classes"]
    target: Shaped[Tensor, "..."] | None
    kept: Bool[Tensor, "*rows"] | None


def distillation_rows(
    loss: str,
    logits: Float[Tensor, "*rows classes"],
    teacher_logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None = None,
    ignore_index: int = -100,
) -> PairedRows:
    """Check a student's logits against a teacher's, detach the teacher, neutralise ignored rows in both.

    Args:
        loss: the name that errors begin with.
        logits: [..., C] the student's scores.
        teacher_logits: [..., C] the teacher's scores.
        target: [...] class indices, [..., C] probabilities, or None (no row is ignored then).
        ignore_index: rows with this target count for nothing.

    Raises:
        ValueError: dtypes or shapes that do not fit, a teacher with another number of classes among them.
    """
    check_floating(loss, "teacher_logits", teacher_logits)
    rows = classification_rows(loss, logits, target, ignore_index)
    if teacher_logits.shape != logits.shape:
        detail = "train the student on the teacher's classes, or select the shared ones"
        if logits.shape[-1] == teacher_logits.shape[-1]:
            detail = "give both the same samples"
        raise ValueError(
            f"{loss}: teacher_logits of shape {list(teacher_logits.shape)} came with logits of shape "
            f"{list(logits.shape)}; {detail}."
        )
    teacher = full_precision(teacher_logits.detach()).to(rows.logits.dtype)
    if rows.kept is not None:
        teacher = teacher.masked_fill(~rows.kept.unsqueeze(-1), 0.0)
    return PairedRows(rows.logits, teacher, rows.target, rows.kept)


def class_indices(target: Shaped[Tensor, "..."]) -> Int[Tensor, "*rows"]:
    """Class indices as they are; the largest class of each row of probabilities."""
    return target.argmax(dim=-1) if target.is_floating_point() else target


def without_class(
    logits: Float[Tensor, "*rows classes"], target: Int[Tensor, "*rows"]
) -> Float[Tensor, "*rows classes"]:
    """The logits with the target class masked by -inf: their softmax is over the other classes."""
    return logits.scatter(-1, target.unsqueeze(-1), -torch.inf)


def pick(values: Float[Tensor, "*rows classes"], target: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """The entry of each row at its target class."""
    return values.gather(-1, target.unsqueeze(-1)).squeeze(-1)
