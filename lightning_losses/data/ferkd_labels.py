"""FerKD's labels: crops that the teacher finds hard are dropped or get the softened hard label."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_number, debugging
from lightning_losses.numerics.rows import labelled_rows


class AdaptedLabels(NamedTuple):
    """A soft target for each crop, and its weight: 0 for a crop to drop."""

    target: Float[Tensor, "*rows classes"]
    weight: Float[Tensor, "*rows"]


def ferkd_labels(
    teacher_probabilities: Float[Tensor, "*rows classes"],
    target: Int[Tensor, "*rows"],
    *,
    low: float,
    middle: float,
    smoothing: float = 0.1,
) -> AdaptedLabels:
    """Choose each crop's label by the teacher's confidence.

    With c the teacher's largest probability: below `low` the crop is dropped; from `low` and below `middle` it gets
    ``(1 - ε) onehot(y) + ε / C``; from `middle` on, the teacher's probabilities.

    Args:
        teacher_probabilities: [..., C].
        target: [...] class indices; a crop with -100 is dropped.
        low: in [0, 1]; 0 drops no crop.
        middle: from `low` to 1; at `low` no crop gets the hard label.
        smoothing: ε, in [0, 1].

    Returns:
        The targets, and weights of 0 and 1.

    Raises:
        ValueError: shapes that do not fit; thresholds out of order or range; on a CPU, targets outside the classes and
            rows that are no probabilities.

    Source:
        After Shen, 2023, "FerKD: Surgical Label Adaptation for Efficient Distillation", arXiv:2312.17473; its code
        doesn't contain the thresholds, so there are no defaults.

    Example:
        >>> teacher = torch.tensor([[0.4, 0.6], [0.1, 0.9], [0.5, 0.5]])
        >>> adapted = ferkd_labels(teacher, torch.tensor([0, 0, 1]), low=0.55, middle=0.8, smoothing=0.2)
        >>> adapted.target[:2], adapted.weight
        (tensor([[0.9000, 0.1000],
                [0.1000, 0.9000]]), tensor([1., 1., 0.]))
    """
    check_number("ferkd_labels", "low", low, least=0, most=1)
    check_number("ferkd_labels", "middle", middle, least=low, most=1)
    check_number("ferkd_labels", "smoothing", smoothing, least=0, most=1)
    if target.shape != teacher_probabilities.shape[:-1] or target.is_floating_point():
        raise ValueError(
            f"ferkd_labels: target of shape {list(target.shape)} and dtype {target.dtype} came with probabilities of "
            f"shape {list(teacher_probabilities.shape)}; give a class index for each crop."
        )
    classes = teacher_probabilities.shape[-1]
    labelled = labelled_rows(target)
    target = target.masked_fill(~labelled, 0)
    if (target.device.type == "cpu" or debugging()) and target.numel() > 0:
        if int(target.min()) < 0 or int(target.max()) >= classes:
            raise ValueError(
                f"ferkd_labels: targets from {int(target.min())} to {int(target.max())} came for {classes} classes; "
                f"give 0 to {classes - 1}."
            )
        # NaN compares as False; half-precision rows sum to 1 only within about 1e-3.
        sums = teacher_probabilities.float().sum(dim=-1)
        if not bool((teacher_probabilities >= 0).all() & ((sums - 1).abs() <= 1e-2).all()):
            raise ValueError("ferkd_labels: the teacher's rows are no probabilities; give non-negative rows of sum 1.")
    confidence = teacher_probabilities.amax(dim=-1)
    softened = torch.full_like(teacher_probabilities, smoothing / classes)
    softened = softened.scatter(-1, target.unsqueeze(-1), 1 - smoothing + smoothing / classes)
    labels = torch.where((confidence < middle).unsqueeze(-1), softened, teacher_probabilities)
    return AdaptedLabels(labels, ((confidence >= low) & labelled).to(labels.dtype))
