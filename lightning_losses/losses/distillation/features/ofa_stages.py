"""One-for-all distillation of stages: a branch on each stage of the student learns the teacher's predictions."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from lightning_losses.losses.distillation.logits.ofa_kd import OFAKD
from lightning_losses.losses.kinds import RowLoss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.rows import labelled_rows, required_target
from lightning_losses.numerics.settings import Count, Temperature, Weight

Maps = Float[Tensor, "batch ..."]
Kind = Literal["maps", "tokens", "vectors"]


class _Depthwise(LazyModuleMixin, nn.Module):
    """A depthwise 3 x 3 convolution of stride 2; the first batch sets the number of channels."""

    cls_to_become = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = UninitializedParameter()

    def initialize_parameters(self, maps: Tensor) -> None:
        """Take the number of channels from the first batch."""
        if self.has_uninitialized_params():
            self.weight.materialize((maps.shape[1], 1, 3, 3))
            nn.init.uniform_(self.weight, -1 / 3, 1 / 3)

    def forward(self, maps: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Half the size."""
        return F.conv2d(maps, self.weight, stride=2, padding=1, groups=maps.shape[1])


class _Tokens(nn.Module):
    """One transformer block on tokens of any width, then their mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.LazyLinear(width)
        heads = next(heads for heads in (4, 2, 1) if width % heads == 0)
        self.block = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Tensor:
        """One vector for each sample."""
        vectors: Tensor = self.block(self.enter(tokens)).mean(dim=1)
        return vectors


def stage_branch(kind: Kind, width: int, blocks: int, num_classes: int) -> nn.Sequential:
    """The branch that turns a stage's output into logits.

    Maps go through `blocks` times a separable convolution that halves them, group norm and ReLU; tokens go through a
    transformer block; vectors through a linear layer and ReLU. A mean over positions and a linear layer follow.
    """
    layers: list[nn.Module] = []
    if kind == "maps":
        for _ in range(blocks):
            layers += [_Depthwise(), nn.LazyConv2d(width, 1, bias=False), nn.GroupNorm(1, width), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    elif kind == "tokens":
        layers += [_Tokens(width)]
    else:
        layers += [nn.LazyLinear(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


class _BranchOFAKD(OFAKD):
    """`OFAKD` of one branch's logits; its errors begin with `ofa_stages`."""


class OFAStages(RowLoss):
    """One-for-all distillation of stages: a branch on each stage of the student learns the teacher's predictions.

    ``sum over stages of OFAKD(branch(stage), teacher)``. The loss compares predictions alone, so
    one network may be convolutional and the other a transformer. The branches belong to the loss: they take their
    shapes from the first batch, and are trained and saved with the loss; the student's network does not contain them.
    Set the layers by the student's `feature_layer`, "all" for all its stages. Use it beside `OFAKD` of the last logits.

    Args:
        num_classes: C, at least 1.
        stages: number of stages, at least 1.
        kind: the output of a stage: "maps", "tokens" or "vectors".
        width: width of the branches' hidden layers, at least 1.
        gamma: γ of `OFAKD`, at least 0.
        temperature: τ of `OFAKD`, above 0.

    Shapes:
        feature_maps: [B, channels, height, width], [B, T, D] or [B, D] by kind, or {layer: such tensors};
        teacher_logits: [B, C]; target: [B] class indices or [B, C] probabilities.

    Returns:
        A scalar, or [B] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; another number of stages; options out of range.

    Source:
        Hao, Guo, Han, Tang, Hu, Wang, Xu, 2023, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in
        Knowledge Distillation", arXiv:2310.19444, and its code Hao840/OFAKD: all stages, weight 1. As in the code, a
        branch has one halving block for each stage from its own to the last. Unlike there, all blocks have the same
        width instead of doubling ones, group norm instead of batch norm (so that samples do not depend on each other),
        and one transformer block instead of patch merging.

    Example:
        >>> loss = OFAStages(num_classes=3, stages=2, width=8)
        >>> maps = {"early": torch.randn(2, 4, 8, 8), "late": torch.randn(2, 6, 4, 4)}
        >>> loss(maps, torch.randn(2, 3), torch.tensor([0, 1])).shape
        torch.Size([])
    """

    status = "paper"
    evidence = "Hao840/OFAKD for the loss on a branch's logits; the branches are this library's"

    num_classes: Count
    stages: Count = 1
    kind: Kind = "maps"
    width: Count = 64
    gamma: Weight = 1.5
    temperature: Temperature = 1.0
    branches: nn.ModuleList = field(init=False)
    each: OFAKD = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.branches = nn.ModuleList(
            stage_branch(self.kind, self.width, self.stages - n, self.num_classes) for n in range(self.stages)
        )
        self.each = _BranchOFAKD(self.gamma, self.temperature, ignore_index=self.ignore_index, reduction=self.reduction)

    def forward(
        self,
        feature_maps: Maps | Mapping[str, Maps],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Shaped[Tensor, "..."],
    ) -> Float[Tensor, "..."]:
        """Check, evaluate and reduce; see the class."""
        maps = list(feature_maps.values()) if isinstance(feature_maps, Mapping) else [feature_maps]
        if len(maps) != self.stages:
            raise ValueError(
                f"{self._identifier}: {len(maps)} feature_maps came for stages={self.stages}; give as many."
            )
        check_floating(self._identifier, "teacher_logits", teacher_logits)
        if teacher_logits.shape[-1:] != (self.num_classes,):
            raise ValueError(
                f"{self._identifier}: teacher_logits of shape {list(teacher_logits.shape)} came for "
                f"num_classes={self.num_classes}; give the teacher's number of classes."
            )
        kept = labelled_rows(required_target(self._identifier, target), self.ignore_index)
        stages = [self._logits(branch, stage, kept) for stage, branch in zip(maps, self.branches, strict=True)]
        return torch.stack([self.each(logits, teacher_logits, target) for logits in stages]).sum(dim=0)

    def _logits(self, branch: nn.Module, stage: Maps, kept: Bool[Tensor, " batch"]) -> Float[Tensor, "batch classes"]:
        check_floating(self._identifier, "feature_maps", stage)
        if stage.ndim != {"maps": 4, "tokens": 3, "vectors": 2}[self.kind]:
            raise ValueError(
                f"{self._identifier}: feature_maps of shape {list(stage.shape)} came for kind={self.kind!r}; choose "
                "the kind that fits the stages' outputs."
            )
        if stage.shape[1:].numel() == 0:
            raise ValueError(
                f"{self._identifier}: feature_maps of shape {list(stage.shape)} came; give at least one number each."
            )
        if len(stage) == 0:
            return stage.new_zeros(0, self.num_classes) + stage.sum()
        if kept.shape == stage.shape[:1]:
            # Ignored samples must not reach the branches: 0 times NaN would be NaN.
            stage = torch.where(kept.view(-1, *[1] * (stage.ndim - 1)), stage, 0.0)
        last: Any = branch[-1]  # type: ignore[index]
        logits: Tensor = branch(stage.to(last.weight.dtype))
        return logits
