"""Which row-wise losses the kernels can compute, and how."""

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.kernels.rows.by_hand import BY_HAND
from lightning_losses.kernels.rows.objectives import OBJECTIVES
from lightning_losses.kernels.terms import RowTransform
from lightning_losses.losses.base import Loss
from lightning_losses.losses.classification.cross_entropy import CrossEntropy
from lightning_losses.losses.kinds import (
    ClassificationLoss,
    ClassWeightedLoss,
    CrossEntropyFunction,
    DistillationLoss,
    LabelledDistillationLoss,
    OffsetCrossEntropy,
    RowLoss,
    values_of,
)
from lightning_losses.losses.language.emo import EMO
from lightning_losses.losses.language.noisefit import NoiseFiT
from lightning_losses.losses.margins.ebv import EBV
from lightning_losses.losses.margins.normalized_softmax import NormalizedSoftmax
from lightning_losses.numerics.settings import settings

RowFunction = Callable[..., Tensor]
"""A `RowLoss`, or a function with a ``reduction`` argument."""

Rows = Callable[[Tensor, Tensor | None, Tensor | None], Float[Tensor, " rows"]]
"""The value of each row from its logits and, if there are any, the teacher's logits and the targets."""

_OFFERED = ("logits", "teacher_logits", "target")
_OF_CROSS_ENTROPY = (CrossEntropy, CrossEntropyFunction, OffsetCrossEntropy, NormalizedSoftmax, EBV)


def fused(kind: type[Loss]) -> Literal["by hand", "by hand on CUDA", "in chunks", "no"]:
    """How the kernels evaluate a class of losses.

    Example:
        >>> from lightning_losses.losses import DKD, KD, CRD, SkewKL
        >>> fused(KD), fused(SkewKL), fused(DKD), fused(CRD)
        ('by hand', 'by hand on CUDA', 'in chunks', 'no')
    """
    if kind in (EMO, NoiseFiT):
        # By heads of their own, linear_emo and linear_noisefit.
        return "in chunks"
    required = {name for name, needed in kind.inputs().items() if needed}
    if kind.batch_coupled or not issubclass(kind, RowLoss) or not {"logits"} <= required <= set(_OFFERED):
        return "no"
    # Required settings are numbers of classes, which may create parameters to learn.
    sizes: dict[str, Any] = {setting.name: 2 for setting in settings(kind) if setting.required}
    if refuses(kind(**sizes)):
        return "no"
    if kind in BY_HAND or issubclass(kind, _OF_CROSS_ENTROPY):
        return "by hand"
    return "by hand on CUDA" if kind in OBJECTIVES else "in chunks"


class CrossEntropyOptions(NamedTuple):
    """The arguments of `linear_cross_entropy` that make it a given loss; an offset is added to the bias."""

    label_smoothing: float = 0.0
    row_function: RowTransform | None = None
    offset: Callable[[int], Float[Tensor, " classes"]] | None = None
    temperature: float = 1.0


def cross_entropy_options(loss: RowFunction) -> CrossEntropyOptions | None:
    """The options of fused cross-entropy for a loss that is a function of it; None for other losses.

    Example:
        >>> from lightning_losses.losses import CrossEntropy, KD
        >>> cross_entropy_options(CrossEntropy(label_smoothing=0.1)), cross_entropy_options(KD())
        (CrossEntropyOptions(label_smoothing=0.1, row_function=None, offset=None, temperature=1.0), None)
    """
    if isinstance(loss, CrossEntropyFunction) and type(loss).rows is CrossEntropyFunction.rows:
        return CrossEntropyOptions(row_function=loss.of_cross_entropy)
    if isinstance(loss, OffsetCrossEntropy) and type(loss).rows is OffsetCrossEntropy.rows:
        return CrossEntropyOptions(offset=loss.offset)
    if type(loss) is CrossEntropy and loss.class_weight is None:
        return CrossEntropyOptions(loss.label_smoothing)
    if type(loss) is NormalizedSoftmax:
        return CrossEntropyOptions(temperature=loss.temperature)
    if type(loss) is EBV:
        return CrossEntropyOptions(loss.label_smoothing, temperature=loss.temperature)
    return None


def refuses(loss: RowFunction) -> str | None:
    """Why a loss can't be evaluated by chunks, as a sentence; None if it can."""
    if isinstance(loss, Loss) and loss.batch_coupled:
        return (
            "it couples the samples of a batch, so that it can't be evaluated by chunks; give a row-wise loss, or "
            "evaluate it on the logits."
        )
    if isinstance(loss, nn.Module) and any(parameter.requires_grad for parameter in loss.parameters()):
        return "it has parameters to learn, whose gradients chunks would not give; evaluate it on the logits."
    if isinstance(loss, ClassWeightedLoss) and loss.weighs_classes:
        weights = "class_weight makes" if isinstance(loss, CrossEntropy) else "its classes' weights make"
        return f"{weights} its mean more than a mean over tokens; use linear_cross_entropy(..., class_weight=...)."
    if isinstance(loss, nn.Module) and not isinstance(loss, RowLoss):
        return "it has no reduction, so the values of its rows are unknown; give a row-wise loss."
    return None


def rows_of(loss: RowFunction, ignore_index: int) -> Rows:
    """The values of a loss that is not refused, for rows without ignored ones.

    Args:
        loss: the loss.
        ignore_index: the caller's ignored target, which replaces the loss's own.
    """
    if isinstance(loss, RowLoss):
        takes, values = set(loss.inputs()), _values(loss, ignore_index)
    else:
        takes, values = set(inspect.signature(loss).parameters), partial(loss, reduction="none")

    def rows(logits: Tensor, teacher_logits: Tensor | None, target: Tensor | None) -> Tensor:
        offered = zip(_OFFERED, (logits, teacher_logits, target), strict=True)
        return values(**{name: tensor for name, tensor in offered if tensor is not None and name in takes})

    return rows


def check_function(name: str, rows: Rows, like: Float[Tensor, "..."], vocabulary: int, taught: bool) -> None:
    """Raise ``ValueError`` for a function that does not give each of two rows a value, or that learns.

    Args:
        name: the function's name.
        rows: its values.
        like: a tensor of the scores' device and dtype.
        vocabulary: the number of classes.
        taught: whether there is a teacher.
    """
    scores = like.new_zeros(2, vocabulary)
    try:
        values = rows(scores, scores.clone() if taught else None, scores.new_zeros(2, dtype=torch.int64))
    except RuntimeError as error:
        raise ValueError(
            f"{name}: it came, and fails on two rows ({error}); give a function that takes any number of rows, and "
            "weigh the rows of its result."
        ) from error
    if not isinstance(values, Tensor) or values.shape != (2,):
        came = f"of shape {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"{name}: values of two rows ({came}) came; give a function that, with reduction='none', returns one value "
            "for each row."
        )
    # The scores have no gradient, so that it is one of the function's own.
    if values.requires_grad:
        raise ValueError(
            f"{name}: it has tensors to learn, whose gradients chunks would not give; evaluate it on the logits, or "
            "detach them."
        )


def _values(loss: RowLoss, ignore_index: int) -> Callable[..., Tensor]:
    unreduced = copy.copy(loss)
    unreduced.ignore_index, unreduced.reduction = ignore_index, "none"
    if not isinstance(unreduced, (ClassificationLoss, DistillationLoss, LabelledDistillationLoss)):
        # A loss with its own forward; unreduced it gives the rows.
        return unreduced
    # The rows of each kind take the result of its `given`.
    if not isinstance(unreduced, ClassificationLoss):
        return lambda **tensors: values_of(unreduced, unreduced.given(**tensors))
    return lambda **tensors: unreduced.rows(unreduced.given(**tensors))
