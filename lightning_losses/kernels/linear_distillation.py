"""Distillation between two heads without storing the logits of either."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.kernels.chunked_head import ChunkedImpl, chunked_head
from lightning_losses.kernels.cross_entropy.problem import Impl
from lightning_losses.kernels.inputs import check_head, whole_shift
from lightning_losses.kernels.linear_cross_entropy import linear_cross_entropy
from lightning_losses.kernels.rows.gradients import Parts
from lightning_losses.kernels.rows.head_loss import head_loss
from lightning_losses.kernels.rows.row_wise import RowFunction
from lightning_losses.kernels.rows.teachers import Teacher, TeacherHead
from lightning_losses.kernels.rows.teachers import TeacherLogits as TeacherLogits
from lightning_losses.kernels.rows.teachers import TopKLogits as TopKLogits
from lightning_losses.kernels.traced import Returned, traceable
from lightning_losses.losses.distillation.logits.aligned_vocabulary import Policy, shared_classes, shared_target
from lightning_losses.numerics.checks import check_floating, check_number
from lightning_losses.numerics.reduction import Reduction

_NAME = "linear_distillation"


class LinearDistillationValue(NamedTuple):
    """The loss, and its parts before weighting, for logging; `hard` is None without a hard weight."""

    loss: Float[Tensor, "..."]
    soft: Float[Tensor, "..."]
    hard: Float[Tensor, "..."] | None


def _returned(arguments: dict[str, Any]) -> Returned:
    fields = ("loss", "soft", "hard") if arguments.get("hard_weight", 0.0) else ("loss", "soft")
    rows = arguments.get("reduction", "mean") == "none"
    shape = tuple(arguments["hidden"].shape[:-1])
    return Returned(LinearDistillationValue, fields, (rows,) * len(fields), shape)


@traceable(_returned)
def linear_distillation(
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    teacher_hidden: Float[Tensor, "*tokens teacher_width"] | TopKLogits | TeacherLogits,
    teacher_weight: Float[Tensor, "vocabulary teacher_width"] | None = None,
    target: Int[Tensor, "*tokens"] | None = None,
    *,
    objective: RowFunction,
    bias: Float[Tensor, " vocabulary"] | None = None,
    teacher_bias: Float[Tensor, " vocabulary"] | None = None,
    hard_weight: float = 0.0,
    soft_weight: float = 1.0,
    shift: int | bool = 0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    normalizer: float | Tensor | None = None,
    chunk: int | None = None,
    accum_dtype: torch.dtype | None = None,
    drop_ignored: bool | None = None,
    vocabulary: Policy = "error",
    student_classes: Sequence[int] | Int[Tensor, " shared"] | None = None,
    teacher_classes: Sequence[int] | Int[Tensor, " shared"] | None = None,
    softcap: float | None = None,
    teacher_softcap: float | None = None,
    impl: ChunkedImpl = "auto",
) -> LinearDistillationValue:
    """Distil a teacher's head into a student's, by any row-wise objective, without either's logits.

    Args:
        hidden: [..., D] the student's hidden states.
        weight: [V, D] the student's head.
        teacher_hidden: [..., E] the teacher's hidden states, or a `TopKLogits` cache, or all its `TeacherLogits`. A
            cache with the logit of the rest works with every objective. Without it the other classes have probability
            0, which counts as e^-100 in an objective that needs its logarithm (see the catalogue).
        teacher_weight: [V, E] the teacher's head; None beside logits.
        target: [...] int64 token ids, or None where the objective needs none.
        objective: a row-wise `Loss` on `logits` and `teacher_logits`, such as ``KD(temperature=2.0)``; or a function
            with a ``reduction`` argument.
        bias: [V] the student's, or None.
        teacher_bias: [V] the teacher's, or None.
        hard_weight: weight of cross-entropy on `target`, from the same scores; 0 leaves it out.
        soft_weight: weight of the objective.
        shift: k: each hidden state predicts the target k places later; the last k have none and are left out.
        ignore_index: tokens with this target are ignored.
        reduction: "mean" over the kept tokens, "sum", or "none".
        normalizer: the divisor of the mean; by default the count of its tokens.
        chunk: tokens held at once; chosen by default.
        accum_dtype: the dtype in which the weight's gradient is accumulated; by default its own.
        drop_ignored: as for `chunked_head`.
        vocabulary: how the objective compares heads with different rows, as in
            `lightning_losses.losses.AlignedVocabulary`: "error", "truncate" to the first rows, "map" by the two lists.
            The hard part uses all rows, in a separate pass.
        student_classes: for "map", the student's rows that are shared.
        teacher_classes: for "map", the teacher's rows that are the same, in the same order. Tensors on a GPU
            are checked under `debug` alone.
        softcap: s: the student's scores become ``s tanh(l / s)``, by autograd, in chunks; None for none.
        teacher_softcap: the same for the teacher's scores; needs the teacher's head.
        impl: as for `chunked_head`.

    Shapes:
        hidden: [..., T, D]; teacher_hidden: [..., T, E]; target: [..., T].

    Returns:
        The loss and its parts, in float32 (float64 for float64). The teacher gets no gradient.

    Raises:
        ValueError: tensors, an objective or options that do not fit.

    Source:
        The chunked losses of linkedin/Liger-Kernel (``chunked_loss``) have JSD and cosine similarity, without the
        factor τ² and with weights 0.5; there a larger teacher vocabulary leaks probability, here it is refused.

    Example:
        >>> from lightning_losses.losses import KD
        >>> hidden, weight = torch.eye(3, 4), torch.ones(5, 4)
        >>> round(linear_distillation(hidden, weight, hidden, torch.eye(5, 4), objective=KD(1.0)).loss.item(), 4)
        0.1092
    """
    check_number(_NAME, "hard_weight", hard_weight, least=0)
    check_number(_NAME, "soft_weight", soft_weight, least=0)
    if hard_weight and target is None:
        raise ValueError(f"{_NAME}: hard_weight={hard_weight} came without target; give the tokens' ids.")
    if shift and target is None:
        raise ValueError(f"{_NAME}: shift={shift} came without target; it moves the targets.")
    soft_weights, soft_bias, matched = weight, bias, None
    if vocabulary != "error":
        if isinstance(teacher_hidden, (TopKLogits, TeacherLogits)) or teacher_weight is None:
            raise ValueError(
                f"{_NAME}: vocabulary={vocabulary!r} came without teacher_weight; give the teacher's head."
            )
        matched = shared_classes(
            len(weight),
            len(teacher_weight),
            policy=vocabulary,
            student_classes=student_classes,
            teacher_classes=teacher_classes,
            devices=(weight.device, teacher_weight.device),
        )
        soft_weights, soft_bias = weight[matched.student], None if bias is None else bias[matched.student]
        teacher_weight = teacher_weight[matched.teacher]
        teacher_bias = None if teacher_bias is None else teacher_bias[matched.teacher]
    teacher = _teacher(hidden, soft_weights, teacher_hidden, teacher_weight, teacher_bias)
    if target is not None and shift:
        check_head(_NAME, hidden, weight, target, bias)
        target = _aligned(target, whole_shift(_NAME, shift), ignore_index)
    shared: dict[str, Any] = {
        "ignore_index": ignore_index,
        "reduction": reduction,
        "normalizer": normalizer,
        "chunk": chunk,
        "accum_dtype": accum_dtype,
        "drop_ignored": drop_ignored,
        "impl": impl,
    }
    if matched is None:
        parts, caps = Parts(soft_weight, hard_weight), (softcap, teacher_softcap)
        loss, of_parts = head_loss(
            *(objective, hidden, weight, target, bias),
            parts=parts,
            teacher=teacher,
            softcaps=caps,
            door=_NAME,
            **shared,
        )
        return LinearDistillationValue(loss, of_parts[0], of_parts[1] if hard_weight else None)
    # The hard part is on rows of the head that the teacher doesn't have.
    soft_target = None if target is None else shared_target(target, len(weight), matched, ignore_index)
    soft = chunked_head(
        objective,
        hidden,
        soft_weights,
        soft_target,
        soft_bias,
        teacher=teacher,
        softcap=softcap,
        teacher_softcap=teacher_softcap,
        **shared,
    )
    if not hard_weight or target is None:
        return LinearDistillationValue(soft_weight * soft, soft.detach(), None)
    by: Impl = impl if impl in ("auto", "reference", "avx512", "triton") else "chunked"
    hard = linear_cross_entropy(hidden, weight, target, bias, softcap=softcap, **{**shared, "impl": by})
    return LinearDistillationValue(soft_weight * soft + hard_weight * hard, soft.detach(), hard.detach())


def _aligned(target: Int[Tensor, "..."], shift: int, ignore_index: int) -> Int[Tensor, "..."]:
    """Targets moved beside the hidden states that predict them; the last have none."""
    length = target.shape[-1] if target.ndim else 0
    if not 0 <= shift < length:
        raise ValueError(f"{_NAME}: shift={shift} came with sequences of {length}; give 0 to {length - 1}.")
    moved = torch.full_like(target, ignore_index)
    moved[..., : length - shift] = target[..., shift:]
    return moved


def _teacher(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor | TopKLogits | TeacherLogits,
    teacher_weight: Tensor | None,
    teacher_bias: Tensor | None,
) -> Teacher:
    check_floating(_NAME, "hidden", hidden)
    if isinstance(teacher_hidden, (TopKLogits, TeacherLogits)):
        if teacher_weight is not None or teacher_bias is not None:
            raise ValueError(f"{_NAME}: logits came with a teacher's head; give one of them.")
        return _flat(hidden, weight, teacher_hidden)
    if teacher_weight is None:
        raise ValueError(
            f"{_NAME}: teacher_hidden came without teacher_weight; give the teacher's head, or TopKLogits, or "
            "TeacherLogits."
        )
    check_floating(_NAME, "teacher_hidden", teacher_hidden)
    check_floating(_NAME, "teacher_weight", teacher_weight)
    width = teacher_weight.shape[1:]
    if teacher_hidden.shape[:-1] != hidden.shape[:-1] or teacher_hidden.shape[-1:] != width or width.numel() == 0:
        raise ValueError(
            f"{_NAME}: teacher_hidden of shape {list(teacher_hidden.shape)} and teacher_weight of shape "
            f"{list(teacher_weight.shape)} came with hidden of shape {list(hidden.shape)}; give "
            f"{[*hidden.shape[:-1], 'E']} and [V, E], E at least 1."
        )
    if teacher_weight.shape[0] != weight.shape[0]:
        raise ValueError(
            f"{_NAME}: the teacher's vocabulary of {teacher_weight.shape[0]} came with the student's of "
            f"{weight.shape[0]}; set vocabulary='truncate' if the first ones are the same, or vocabulary='map' with "
            "student_classes= and teacher_classes=."
        )
    if teacher_bias is not None and teacher_bias.shape != teacher_weight.shape[:1]:
        raise ValueError(
            f"{_NAME}: teacher_bias of shape {list(teacher_bias.shape)} came with a vocabulary of "
            f"{teacher_weight.shape[0]}; give shape [{teacher_weight.shape[0]}]."
        )
    device = teacher_hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else teacher_weight.dtype
    flat = teacher_hidden.detach().reshape(-1, teacher_hidden.shape[-1]).to(dtype)
    return TeacherHead(flat, teacher_weight.detach().to(dtype), None if teacher_bias is None else teacher_bias.detach())


def _flat(hidden: Tensor, weight: Tensor, logits: TopKLogits | TeacherLogits) -> Teacher:
    """A teacher's logits with one row a token, checked."""
    values, rows = logits.values, hidden.shape[:-1]
    check_floating(_NAME, "values of the teacher's logits", values)
    if isinstance(logits, TeacherLogits):
        if values.shape != (*rows, len(weight)):
            raise ValueError(
                f"{_NAME}: a teacher's logits of shape {list(values.shape)} came with hidden of shape "
                f"{list(hidden.shape)} and a vocabulary of {len(weight)}; give {[*rows, len(weight)]}."
            )
        return TeacherLogits(values.detach().reshape(-1, len(weight)))
    classes, k = logits.classes, values.shape[-1] if values.ndim else 0
    wrong = k == 0 or values.shape != classes.shape or values.shape[:-1] != rows
    if wrong or classes.dtype != torch.int64:
        raise ValueError(
            f"{_NAME}: cached logits of shape {list(values.shape)} with {classes.dtype} classes of "
            f"shape {list(classes.shape)} came with hidden of shape {list(hidden.shape)}; give "
            f"{[*rows, 'k']} and int64, k at least 1."
        )
    rest = logits.rest
    if rest is not None:
        check_floating(_NAME, "rest of the cached logits", rest)
        if rest.shape != rows:
            raise ValueError(
                f"{_NAME}: rest of shape {list(rest.shape)} came with cached logits of shape {list(values.shape)}; "
                f"give {list(rows)}, the logit of each other class."
            )
        rest = rest.detach().reshape(-1)
    return TopKLogits(values.detach().reshape(-1, k), classes.reshape(-1, k), rest)
