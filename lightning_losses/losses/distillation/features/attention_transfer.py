"""Attention transfer: where a layer is active in the student is matched to where one is active in the teacher."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_choice, check_floating, check_number
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.reduction import Reduction, check_reduction, reduce

Maps = Float[Tensor, "batch channels height width"]
Mode = Literal["code", "paper"]


def attention_map(feature_map: Maps, p: float = 2.0) -> Float[Tensor, "batch positions"]:
    """Each sample's mean over channels of ``|activation|^p``, flattened, with length 1."""
    maps = full_precision(feature_map)
    powers = maps.square() if p == 2 else maps.abs().pow(p)
    return F.normalize(powers.mean(dim=1).flatten(start_dim=1), dim=1)


def attention_transfer_loss(
    feature_maps: Maps | Mapping[str, Maps],
    teacher_feature_maps: Maps | Mapping[str, Maps],
    *,
    p: float = 2.0,
    mode: Mode = "code",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Distance of the attention maps, summed over layers; see `AttentionTransfer`."""
    _check_options(p, mode, reduction)
    students, teachers = _layers("feature_maps", feature_maps), _layers("teacher_feature_maps", teacher_feature_maps)
    if len(students) != len(teachers):
        raise ValueError(
            f"attention_transfer: {len(students)} feature_maps came with {len(teachers)} teacher_feature_maps; give as "
            "many layers of both networks, in the same order."
        )
    values = [_distance(s, t.detach(), p, mode) for s, t in zip(students, teachers, strict=True)]
    return reduce(torch.stack(values).sum(dim=0) if len(values) > 1 else values[0], reduction)


def _check_options(p: float, mode: str, reduction: str) -> None:
    check_number("attention_transfer", "p", p, least=1)
    check_choice("attention_transfer", "mode", mode, Mode)
    check_reduction("attention_transfer", reduction)


def _layers(name: str, maps: Maps | Mapping[str, Maps]) -> list[Tensor]:
    layers = list(maps.values()) if isinstance(maps, Mapping) else [maps]
    for layer in layers:
        check_floating("attention_transfer", name, layer)
        if layer.ndim != 4:
            raise ValueError(
                f"attention_transfer: {name} of shape {list(layer.shape)} came; give maps [B, channels, height, width]."
            )
    return layers


def _distance(student: Tensor, teacher: Tensor, p: float, mode: Mode) -> Float[Tensor, " batch"]:
    if len(student) != len(teacher):
        raise ValueError(
            f"attention_transfer: teacher_feature_maps of {len(teacher)} samples came with feature_maps of "
            f"{len(student)}; give both the same samples."
        )
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    student, teacher = (
        maps if tuple(maps.shape[2:]) == size else F.adaptive_avg_pool2d(full_precision(maps), size)
        for maps in (student, teacher)
    )
    squared = (attention_map(student, p) - attention_map(teacher, p).to(full_precision(student).dtype)).square()
    if mode == "code":
        return squared.mean(dim=1)
    total = squared.sum(dim=1)
    # The square root has no slope at 0; there the maps are equal, and the gradient is 0.
    apart = total > 0
    return torch.where(apart, torch.where(apart, total, 1.0).sqrt(), 0.0)


class AttentionTransfer(Loss):
    """Attention transfer: where a layer is active in the student is matched to where one is active in the teacher.

    With ``A(F) = normalize(mean over channels of |F|^p)``, flattened over positions, the squared difference
    ``(A(F_s) - A(F_t))²`` averaged over positions ("code"), or ``|A(F_s) - A(F_t)|_2`` ("paper"), summed over layers.
    Numbers of channels may differ; of two sizes the larger map is averaged down to the smaller. Neither the scale of a
    map nor the order of its channels matters.

    Args:
        p: the power, at least 1.
        mode: the form of the authors' and most other codes, or that of the paper.
        reduction: "mean" over the samples, "sum", or "none".

    Shapes:
        feature_maps, teacher_feature_maps: [B, channels, height, width], or {layer: such maps}, layer by layer in the
        same order.

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: maps of other shapes, other numbers of layers or of samples; a p below 1; an unknown mode.

    Source:
        Zagoruyko, Komodakis, 2017, "Paying More Attention to Attention: Improving the Performance of Convolutional
        Neural Networks via Attention Transfer", arXiv:1612.03928, and the codes of megvii-research/mdistiller (weight
        1000) and yoshitomo-matsubara/torchdistill (the paper's form).

    Example:
        >>> maps = torch.rand(2, 3, 4, 4)
        >>> AttentionTransfer()(maps, 5 * maps.flip(1)).item() < 1e-12
        True
    """

    status = "paper"
    evidence = "megvii-research/mdistiller and yoshitomo-matsubara/torchdistill, which are not its authors'"

    def __init__(self, p: float = 2.0, mode: Mode = "code", reduction: Reduction = "mean") -> None:
        super().__init__()
        _check_options(p, mode, reduction)
        self.p = p
        self.mode: Mode = mode
        self.reduction: Reduction = reduction

    def forward(
        self, feature_maps: Maps | Mapping[str, Maps], teacher_feature_maps: Maps | Mapping[str, Maps]
    ) -> Float[Tensor, "..."]:
        """Evaluate the loss; the class documents it."""
        return attention_transfer_loss(
            feature_maps, teacher_feature_maps, p=self.p, mode=self.mode, reduction=self.reduction
        )
