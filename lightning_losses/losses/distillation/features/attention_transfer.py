"""Attention transfer: the places where the student's layer is active are matched to the teacher's."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.reduction import Reduction, reduce
from lightning_losses.numerics.settings import Bound
from lightning_losses.numerics.vectors import at_unit_size

Maps = Float[Tensor, "batch channels height width"]


class AttentionTransfer(Loss):
    """Attention transfer: the places where the student's layer is active are matched to the teacher's.

    With ``A(F) = normalize(mean over channels of |F|^p)``, flattened over positions, the squared difference
    ``(A(F_s) - A(F_t))²`` averaged over positions ("code"), or ``|A(F_s) - A(F_t)|_2`` ("paper"), summed over layers.
    Numbers of channels may differ. If the sizes differ, the larger map is averaged down to the smaller. Neither the
    scale of a map nor the order of its channels matters.

    Args:
        p: the power, at least 1.
        mode: "code", the form of the authors' code and most others, or "paper".
        reduction: "mean" over the samples, "sum", or "none".

    Shapes:
        feature_maps, teacher_feature_maps: [B, channels, height, width], or {layer: such maps} with the layers in the
        same order.

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: maps of other shapes; numbers of layers or samples that differ; a p below 1; an unknown mode.

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
    evidence = "megvii-research/mdistiller and yoshitomo-matsubara/torchdistill, not the authors' code"

    p: Annotated[float, Bound(least=1)] = 2.0
    mode: Literal["code", "paper"] = "code"
    reduction: Reduction = field(default="mean", kw_only=True)

    def forward(
        self, feature_maps: Maps | Mapping[str, Maps], teacher_feature_maps: Maps | Mapping[str, Maps]
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        students = self._layers("feature_maps", feature_maps)
        teachers = self._layers("teacher_feature_maps", teacher_feature_maps)
        if len(students) != len(teachers) or not students:
            raise ValueError(
                f"{self._identifier}: {len(students)} feature_maps came with {len(teachers)} teacher_feature_maps; "
                "give as many layers of both networks, in the same order."
            )
        values = [self._distance(s, t.detach()) for s, t in zip(students, teachers, strict=True)]
        return reduce(sum(values[1:], values[0]), self.reduction)

    def _layers(self, name: str, maps: Maps | Mapping[str, Maps]) -> list[Tensor]:
        layers = list(maps.values()) if isinstance(maps, Mapping) else [maps]
        for layer in layers:
            check_floating(self._identifier, name, layer)
            if layer.ndim != 4 or layer.shape[1:].numel() == 0:
                raise ValueError(
                    f"{self._identifier}: {name} of shape {list(layer.shape)} came; give maps [B, channels, height, "
                    "width] with at least one of each."
                )
        return layers

    def _distance(self, student: Maps, teacher: Maps) -> Float[Tensor, " batch"]:
        if len(student) != len(teacher):
            raise ValueError(
                f"{self._identifier}: teacher_feature_maps of {len(teacher)} samples came with feature_maps of "
                f"{len(student)}; give both the same samples."
            )
        size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
        attention = self._attention(student, size)
        squared = (attention - self._attention(teacher, size).to(attention.dtype)).square()
        if self.mode == "code":
            return squared.mean(dim=1)
        total = squared.sum(dim=1)
        # The square root has no slope at 0; there the maps are equal, and the gradient is 0.
        equal = total == 0
        return total.masked_fill(equal, 1.0).sqrt().masked_fill(equal, 0.0)

    def _attention(self, maps: Maps, size: tuple[int, int]) -> Float[Tensor, "batch positions"]:
        maps = full_precision(maps)
        maps = maps if tuple(maps.shape[2:]) == size else F.adaptive_avg_pool2d(maps, size)
        maps = at_unit_size(maps, (1, 2, 3))
        powers = maps.square() if self.p == 2 else maps.abs().pow(self.p)
        return F.normalize(powers.mean(dim=1).flatten(start_dim=1), dim=1)
