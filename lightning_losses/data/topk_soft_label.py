"""Restores soft labels from their k largest probabilities."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.numerics.checks import check_choice, check_count, debugging
from lightning_losses.numerics.probabilities import full_precision

Kind = Literal["spread", "renormalise"]


def restore_soft_label(
    index: Int[Tensor, "*rows k"], value: Float[Tensor, "*rows k"], num_classes: int, *, kind: Kind = "spread"
) -> Float[Tensor, "*rows classes"]:
    """Probabilities over all classes from the stored ones; use them as a soft target.

    Args:
        index: [..., k] the stored classes, each at most once per row.
        value: [..., k] their probabilities.
        num_classes: C, at least k.
        kind: "spread" distributes the missing probability equally over the other classes; "renormalise" divides by the
            sum.

    Returns:
        [..., C] with sum 1; for k = C and "spread" exactly the stored values. Half precision becomes float32, so that
        the missing probability keeps its digits.

    Raises:
        ValueError: shapes that do not fit; fewer classes than are stored; an unknown kind; on a CPU, classes that don't
            exist or occur twice, and values that are no probabilities with a sum of at most 1 (within 1e-2), or with a
            sum of 0 for "renormalise".

    Source:
        Shen, Xing, 2022, "A Fast Knowledge Distillation Framework for Visual Recognition", arXiv:2112.01528, and its
        code szq0214/FKD.

    Example:
        >>> restore_soft_label(torch.tensor([[2, 0]]), torch.tensor([[0.75, 0.125]]), 4)
        tensor([[0.1250, 0.0625, 0.7500, 0.0625]])
    """
    check_choice("topk_soft_label", "kind", kind, Kind)
    check_count("topk_soft_label", "num_classes", num_classes)
    k = value.shape[-1] if value.ndim else 0
    if index.is_floating_point() or index.shape != value.shape or not 1 <= k <= num_classes:
        raise ValueError(
            f"topk_soft_label: index of shape {list(index.shape)} and value of shape {list(value.shape)} came for "
            f"{num_classes} classes; give both [..., k], with k from 1 to the number of classes."
        )
    value = full_precision(value)
    total = value.sum(dim=-1, keepdim=True)
    if (value.device.type == "cpu" or debugging()) and value.numel() > 0:
        _check_values(index, value, total, num_classes, kind)
    if kind == "renormalise":
        value, rest = value / total, torch.zeros_like(total)
    else:
        # In half precision the sum may round to above 1.
        rest = (1 - total).clamp(min=0) / max(num_classes - k, 1)
    return rest.repeat(*[1] * (rest.ndim - 1), num_classes).scatter(-1, index, value)


def _check_values(index: Tensor, value: Tensor, total: Tensor, num_classes: int, kind: Kind) -> None:
    if int(index.min()) < 0 or int(index.max()) >= num_classes or bool((index.sort().values.diff() == 0).any()):
        raise ValueError(
            f"topk_soft_label: classes from {int(index.min())} to {int(index.max())} came for {num_classes} classes; "
            f"give 0 to {num_classes - 1}, each at most once per row."
        )
    # NaN compares as False.
    if not bool((value >= 0).all() & (total <= 1.01).all() & ((total > 0) | (kind == "spread")).all()):
        raise ValueError(
            f"topk_soft_label: values from {float(value.min()):g} to {float(value.max()):g} with sums of up to "
            f"{float(total.max()):g} came; give probabilities, with a sum above 0 if they are renormalised."
        )
