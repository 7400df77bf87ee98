"""The rows that a loss works on: checked, in full precision, with ignored ones made harmless."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_losses.numerics.checks import check_floating, check_tensor, debugging
from lightning_losses.numerics.probabilities import full_precision, known_everywhere, known_somewhere

# How far from 1 probabilities that a network made in half precision add up, and from [0, 1] those that were mixed lie.
_SUM_TOLERANCE, _ROUNDING = 1e-2, 1e-6


class Rows(NamedTuple):
    """What a classification loss works on, checked, in full precision, with ignored rows made harmless."""

    logits: Float[Tensor, "*rows classes"]
    target: Shaped[Tensor, "..."] | None
    kept: Bool[Tensor, "*rows"] | None


def _classes_last(logits: Tensor) -> str:
    # Said wherever shapes disagree: no shape tells which of its dimensions the classes are.
    return "; classes come last: from [N, C, ...] give logits.movedim(1, -1)" if logits.ndim > 2 else ""


def _check_dimensions(loss: str, logits: Tensor) -> None:
    """Refuse logits with more dimensions than a batch of sequences, beside which no class indices came."""
    if logits.ndim > 3:
        raise ValueError(
            f"{loss}: logits of shape {list(logits.shape)} came without class indices, and no shape tells which of so "
            "many dimensions the classes are; give rows: logits.movedim(1, -1).flatten(0, -2) of [N, C, ...], or "
            "logits.flatten(0, -2) of [..., C]."
        )


def classification_rows(
    loss: str,
    logits: Float[Tensor, "*rows classes"],
    target: Shaped[Tensor, "..."] | None,
    ignore_index: int = -100,
    *,
    least_classes: int = 2,
    shaped: bool = False,
) -> Rows:
    """Check logits against a target and neutralise the rows whose target is `ignore_index`.

    Args:
        loss: the name that errors begin with.
        logits: [..., C] floating-point scores.
        target: [...] class indices, [..., C] probabilities, or None (no row is ignored then). Without class indices,
            logits have at most three dimensions.
        ignore_index: rows with this target, and rows of probabilities that are all 0, are ignored; their logits
            and target are set to 0.
        shaped: whether the caller holds the shape against another tensor's, with an entry for each row.
        least_classes: how many classes there must be; 2 where softmax is taken, which is constant over one.

    Returns:
        Logits in float32 or float64; the target without `ignore_index`; the mask of kept rows, None if all are known
        to be kept.

    Raises:
        ValueError: dtypes or shapes that do not fit; targets outside [0, C), on the CPU and under `debug`; NaN logits
            under `debug`.
    """
    check_floating(loss, "logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{loss}: logits have shape {list(logits.shape)}; give [..., C] with C of at least 1.")
    if logits.shape[-1] < least_classes:
        raise ValueError(
            f"{loss}: logits of shape {list(logits.shape)} came, and softmax over one class is 1 whatever the logit; "
            f"give at least {least_classes} classes, or use binary_cross_entropy_with_logits for one yes-or-no logit."
        )
    logits = full_precision(logits)
    if debugging() and bool(torch.isnan(logits).any()):
        raise ValueError(f"{loss}: logits hold NaN; find the layer that made it before it spreads.")
    if target is None:
        if not shaped:
            _check_dimensions(loss, logits)
        return Rows(logits, None, None)
    target = required_target(loss, target)
    if target.is_floating_point():
        if target.shape != logits.shape:
            raise ValueError(
                f"{loss}: a floating-point target of shape {list(target.shape)} came with logits of shape "
                f"{list(logits.shape)}; probabilities have the shape of the logits, indices are int64"
                f"{_classes_last(logits)}."
            )
        _check_dimensions(loss, logits)
        check_probabilities(loss, "target", target)
        logits = nan_beside_nan(logits, target)
        return _of_kept(logits, target.to(logits.dtype), labelled_rows(target))
    if target.dtype != torch.int64:
        raise ValueError(
            f"{loss}: target has dtype {target.dtype}; give int64 class indices or floating-point probabilities."
        )
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"{loss}: target of shape {list(target.shape)} came with logits of shape "
            f"{list(logits.shape)}; class indices have shape {list(logits.shape[:-1])}{_classes_last(logits)}."
        )
    kept = check_classes(loss, target, logits.shape[-1], ignore_index)
    return _of_kept(logits, target.masked_fill(~kept, 0), kept)


def _of_kept(logits: Tensor, target: Tensor, kept: Bool[Tensor, "*rows"]) -> Rows:
    if known_everywhere(kept):
        return Rows(logits, target, None)
    # An ignored row may hold anything, also inf: zeros keep its (discarded) value and gradient finite.
    return Rows(logits.masked_fill(~kept.unsqueeze(-1), 0.0), target, kept)


def labelled_rows(target: Shaped[Tensor, "..."], *ignored: int) -> Bool[Tensor, "*rows"]:
    """Which rows have a label: an index but those that are ignored, -100 if none is given, or probabilities not all 0.

    Example:
        >>> labelled_rows(torch.tensor([1, -100])), labelled_rows(torch.tensor([[0.5, 0.5], [0.0, 0.0]]))
        (tensor([ True, False]), tensor([ True, False]))
    """
    if target.is_floating_point():
        return target.sum(dim=-1) != 0
    # Labels of images often come as bytes, of which 156 would equal -100.
    target = target.long()
    first, *further = ignored or (-100,)
    kept = target != first
    for index in further:
        kept = kept & (target != index)
    return kept


def check_classes(
    loss: str, target: Int[Tensor, "*rows"], classes: int, ignore_index: int = -100, name: str = "target"
) -> Bool[Tensor, "*rows"]:
    """Which rows are kept; raises ``ValueError`` if one is out of range, where that can be known for free or must be.

    The error calls the tensor by `name`.

    Example:
        >>> check_classes("demo", torch.tensor([1, -100]), 2)
        tensor([ True, False])
    """
    kept = target != ignore_index
    inside = (target >= 0) & (target < classes)
    if not known_everywhere(inside):
        bad = kept & ~inside
        if known_somewhere(bad) or (debugging() and bool(bad.any())):
            raise ValueError(
                f"{loss}: {name} {int(target[bad][0])} came with {classes} classes; give 0 to {classes - 1}, or "
                f"ignore_index={ignore_index}."
            )
    return kept


def check_labels(loss: str, target: Any, samples: int, ignore_index: int = -100) -> Bool[Tensor, " batch"]:
    """Which samples are kept; raises ``ValueError`` unless the target is [B] int64 classes, of any numbers.

    Example:
        >>> check_labels("demo", torch.tensor([7, -100]), 2)
        tensor([ True, False])
    """
    target = required_target(loss, target)
    if target.is_floating_point():
        raise ValueError(f"{loss}: a target of probabilities came; give int64 class indices.")
    if target.dtype != torch.int64:
        raise ValueError(f"{loss}: target has dtype {target.dtype}; give int64 class indices.")
    if target.shape != (samples,):
        raise ValueError(
            f"{loss}: target of shape {list(target.shape)} came with {samples} samples; give a class index for each."
        )
    return target != ignore_index


def check_shares(loss: str, name: str, given: Float[Tensor, "*shape"]) -> None:
    """Raise ``ValueError`` for entries outside [0, 1], on a CPU and under `debug`; NaN is left to the value."""
    if given.device.type == "cpu" or debugging():
        wrong = (given < -_ROUNDING) | (given > 1 + _ROUNDING)
        _refuse_where(wrong, given, f"{loss}: {name} holds {{}}; give numbers in [0, 1].")


def check_probabilities(loss: str, name: str, given: Float[Tensor, "*rows classes"]) -> None:
    """Raise ``ValueError`` for entries below 0, and rows that add up neither to 1 nor to 0, likewise.

    Example:
        >>> check_probabilities("demo", "target", torch.tensor([[0.5, 1.0]]))
        Traceback (most recent call last):
        ValueError: demo: a row of target adds up to 1.5; give probabilities, which add up to 1, or to 0 for no label.
    """
    if given.numel() and (given.device.type == "cpu" or debugging()):
        least = given.detach().amin()
        _refuse_where(least < -_ROUNDING, least, f"{loss}: {name} holds {{}}; give probabilities, at least 0.")
        total = full_precision(given).sum(dim=-1)
        told = "give probabilities, which add up to 1, or to 0 for no label."
        # A sum that is no number is wrong too: where a row's largest class is taken, nothing else would show it.
        wrong = ~((total - 1).abs() <= _SUM_TOLERANCE) & (total != 0)
        _refuse_where(wrong, total, f"{loss}: a row of {name} adds up to {{}}; {told}")


def nan_beside_nan(values: Float[Tensor, "*rows dim"], target: Float[Tensor, "*rows classes"]) -> Tensor:
    """The values, with NaN in each row whose probabilities add up to no number; where a target is read it was refused.

    A row's largest class is a number whatever the row holds, and a device is not waited for to look.

    Example:
        >>> nan_beside_nan(torch.ones(2, 1), torch.tensor([[1.0, 0.0], [torch.nan, 0.0]]))
        tensor([[1.],
                [nan]])
    """
    total = full_precision(target.detach()).sum(dim=-1, keepdim=True)
    return values if known_everywhere(total.isfinite()) else values + (total * 0).to(values.dtype)


def _refuse_where(wrong: Bool[Tensor, "*shape"], given: Tensor, told: str) -> None:
    if known_somewhere(wrong) or (debugging() and bool(wrong.any())):
        raise ValueError(told.format(f"{float(given.detach()[wrong][0]):g}"))


def beside_logits(
    loss: str, name: str, given: Float[Tensor, "*shape"], shape: torch.Size, rows: Rows
) -> Float[Tensor, "*shape"]:
    """A tensor that comes beside logits, checked, without gradient, in their precision; 0 where rows are ignored.

    Args:
        loss: the name that errors begin with.
        name: the tensor's.
        given: it, for each logit or for each row.
        shape: that it must have.
        rows: the checked logits.

    Raises:
        ValueError: another dtype or shape.
    """
    check_floating(loss, name, given)
    if given.shape != shape:
        told = "give both the same shape" if shape == rows.logits.shape else "give one for each row"
        raise ValueError(
            f"{loss}: {name} of shape {list(given.shape)} came with logits of shape {list(rows.logits.shape)}; {told}."
        )
    given = given.detach().to(rows.logits.dtype)
    if rows.kept is None:
        return given
    ignored = ~rows.kept
    return given.masked_fill(ignored.unsqueeze(-1) if given.ndim > ignored.ndim else ignored, 0.0)


def required_target(loss: str, target: Shaped[Tensor, "..."] | None) -> Shaped[Tensor, "..."]:
    """The target; raises ``ValueError`` unless it is a tensor."""
    if not isinstance(target, Tensor):
        came = "None" if target is None else f"a {type(target).__name__}"
        raise ValueError(
            f"{loss}: target came as {came}; give a tensor of class indices [...], or of probabilities [..., C]."
        )
    return target


class LabelRows(NamedTuple):
    """Logits beside the labels of their rows, checked, in full precision; what counts nothing is 0 in both.

    Attributes:
        counted: which labels are known and not masked; None if all are known to be.
        kept: which rows have a label that is known; None if all are known to have.
    """

    logits: Float[Tensor, "*rows classes"]
    multi_hot: Float[Tensor, "*rows classes"]
    counted: Bool[Tensor, "*rows classes"] | None
    kept: Bool[Tensor, "*rows"] | None


def label_rows(
    loss: str, logits: Float[Tensor, "*rows classes"], multi_hot: Shaped[Tensor, "*rows classes"], ignore_index: int
) -> LabelRows:
    """Check logits against the labels of each row, and neutralise what counts nothing.

    Args:
        loss: the name that errors begin with.
        logits: [..., C] floating-point scores in at most three dimensions; -inf masks a label, +inf becomes NaN.
        multi_hot: [..., C] numbers in [0, 1] of any dtype, or `ignore_index` for a label that is not known.
        ignore_index: what stands for a label that is not known.

    Raises:
        ValueError: dtypes or shapes that do not fit; on the CPU and under `debug` numbers outside [0, 1], and a label
            that a sample has but the logits mask; NaN logits under `debug`.

    Example:
        >>> rows = label_rows("demo", torch.tensor([[2.0, -torch.inf, 3.0]]), torch.tensor([[1, 0, -100]]), -100)
        >>> rows.logits, rows.counted, rows.kept
        (tensor([[2., 0., 0.]]), tensor([[ True, False, False]]), None)
    """
    check_floating(loss, "logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{loss}: logits have shape {list(logits.shape)}; give [..., C] with C of at least 1.")
    check_tensor(loss, "multi_hot", multi_hot)
    if multi_hot.shape != logits.shape:
        raise ValueError(
            f"{loss}: multi_hot of shape {list(multi_hot.shape)} came with logits of shape {list(logits.shape)}; give "
            f"both the same, with a 0 or 1 for each label{_classes_last(logits)}."
        )
    _check_dimensions(loss, logits)
    logits, labels = full_precision(logits), multi_hot.detach().to(full_precision(logits).dtype)
    known = labels != ignore_index
    if debugging() and bool((torch.isnan(logits) & known).any()):
        raise ValueError(f"{loss}: logits hold NaN; find the layer that made it before it spreads.")
    wrong = known & ((labels < -_ROUNDING) | (labels > 1 + _ROUNDING))
    told = f"give numbers in [0, 1], or ignore_index={ignore_index} for a label that is not known."
    _refuse_where(wrong, labels, f"{loss}: multi_hot holds {{}}; {told}")
    masked = torch.isneginf(logits.detach())
    told = "give 0 where logits mask a label by -inf, or another logit."
    _refuse_where(
        known & masked & (labels > 0), labels, f"{loss}: multi_hot holds {{}} where the logit is -inf; {told}"
    )
    counted, kept = known & ~masked, known.any(dim=-1)
    # What softmax does by itself: a row with an infinite score has no value.
    logits = logits.masked_fill(torch.isposinf(logits), torch.nan)
    kept_or_none = None if known_everywhere(kept) else kept
    if known_everywhere(counted):
        return LabelRows(logits, labels, None, kept_or_none)
    return LabelRows(logits.masked_fill(~counted, 0.0), labels.masked_fill(~counted, 0.0), counted, kept_or_none)


def multi_hot_rows(target: Shaped[Tensor, "..."], classes: int, *ignored: int) -> Float[Tensor, "*rows classes"]:
    """The rows of `multi_hot` that classes are: a 1 among zeros, or the probabilities; all unknown where ignored.

    Args:
        target: [...] class indices, or [..., C] probabilities.
        classes: C.
        *ignored: targets of ignored samples, -100 if none is given; the first stands for what is not known.

    Example:
        >>> multi_hot_rows(torch.tensor([1, -100]), 2)
        tensor([[   0.,    1.],
                [-100., -100.]])
    """
    kept = labelled_rows(target, *ignored).unsqueeze(-1)
    if target.is_floating_point():
        rows = target
    else:
        rows = torch.arange(classes, device=target.device).eq(target.unsqueeze(-1)).to(torch.get_default_dtype())
    return torch.where(kept, rows, float((*ignored, -100)[0]))


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
    *,
    least_classes: int = 2,
) -> PairedRows:
    """Check a student's logits against a teacher's, detach the teacher, neutralise ignored rows in both.

    Args:
        loss: the name that errors begin with.
        logits: [..., C] the student's scores.
        teacher_logits: [..., C] the teacher's scores.
        target: [...] class indices, [..., C] probabilities, or None (no row is ignored then).
        ignore_index: rows with this target are ignored.
        least_classes: as in `classification_rows`.

    Raises:
        ValueError: as `classification_rows`; a teacher with another number of classes.
    """
    check_floating(loss, "teacher_logits", teacher_logits)
    check_floating(loss, "logits", logits)
    if logits.shape[-1:] == teacher_logits.shape[-1:] == (1,) and least_classes > 1:
        raise ValueError(
            f"{loss}: logits of shape {list(logits.shape)} came, and softmax over one class is 1 whatever the logit; "
            f"give at least {least_classes} classes, or use BinaryKL for one yes-or-no logit."
        )
    rows = classification_rows(loss, logits, target, ignore_index, least_classes=1)
    if teacher_logits.shape != logits.shape:
        detail = "train the student on the teacher's classes, or select the shared ones by AlignedVocabulary"
        if logits.shape[-1:] == teacher_logits.shape[-1:]:
            detail = "give both the same samples"
        raise ValueError(
            f"{loss}: teacher_logits of shape {list(teacher_logits.shape)} came with logits of shape "
            f"{list(logits.shape)}; {detail}{_classes_last(logits)}."
        )
    teacher = full_precision(teacher_logits.detach()).to(rows.logits.dtype)
    if rows.kept is not None:
        teacher = teacher.masked_fill(~rows.kept.unsqueeze(-1), 0.0)
    return PairedRows(rows.logits, teacher, rows.target, rows.kept)


def on_shared_support(
    logits: Float[Tensor, "*rows classes"], teacher_logits: Float[Tensor, "*rows classes"]
) -> tuple[Float[Tensor, "*rows classes"], Float[Tensor, "*rows classes"]]:
    """Both networks' logits with -inf for each class that either masks: softmax is over those that neither does.

    Example:
        >>> on_shared_support(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, -torch.inf, 4.0]))
        (tensor([1., -inf, 3.]), tensor([0., -inf, 4.]))
    """
    masked = torch.isneginf(logits) | torch.isneginf(teacher_logits)
    # What is not a number in one network is none of the other's masks.
    student, teacher = (z.masked_fill(masked & (z < torch.inf), -torch.inf) for z in (logits, teacher_logits))
    return student, teacher


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


def one_hot(target: Int[Tensor, "*rows"], like: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
    """Rows of 0 with a 1 at the target class, of the shape and dtype of others; unlike torch's, under all transforms.

    Example:
        >>> one_hot(torch.tensor([1, 0]), torch.zeros(2, 3))
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
    """
    return (target.unsqueeze(-1) == torch.arange(like.shape[-1], device=target.device)).to(like.dtype)
