"""A small convolutional network, as student or, if wider and deeper, as teacher."""

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_choice, check_count

Normalisation = Literal["group", "batch"]


class SmallCNN(nn.Module):
    """Three stages of convolutions, each with half the size and twice the channels of the previous, and a linear head.

    It uses group normalisation, unless told otherwise. So it computes the same function in training and evaluation,
    with any batch size and any number of processes, and a teacher has no running statistics that could be wrong. With
    batch normalisation it shows what becomes of such statistics where the data change.

    Args:
        num_classes: C, the number of logits.
        in_chans: the channels of the images.
        width: the channels of the first stage.
        depth: the convolutions of each stage.
        normalisation: "group" or "batch".

    Attributes:
        feature_info: the stages, as timm describes them; `lightning_losses.teachers.feature_taps.penultimate_stage`
            reads it.
        num_features: number of inputs of the head.

    Shapes:
        inputs: [B, in_chans, H, W]; returns [B, C].

    Example:
        >>> import torch
        >>> SmallCNN(num_classes=10, width=8)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        width: int = 8,
        depth: int = 1,
        normalisation: Normalisation = "group",
    ) -> None:
        super().__init__()
        check_choice("small_cnn", "normalisation", normalisation, Normalisation)
        for name, value in (("num_classes", num_classes), ("in_chans", in_chans), ("width", width), ("depth", depth)):
            check_count("small_cnn", name, value)
        channels = [width, 2 * width, 4 * width]
        self.stages = nn.Sequential(
            *(
                _stage(before, after, depth, normalisation)
                for before, after in zip([in_chans, *channels], channels, strict=False)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels[-1], num_classes)
        self.num_features = channels[-1]
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": count, "reduction": 2 ** (stage + 1), "module": f"stages.{stage}"}
            for stage, count in enumerate(channels)
        ]

    def forward_features(self, inputs: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch d h w"]:
        """The last stage's maps."""
        return self.stages(inputs)

    def forward_head(self, maps: Float[Tensor, "batch d h w"]) -> Float[Tensor, "batch classes"]:
        """Logits from the last stage's maps."""
        return self.head(self.pool(maps).flatten(1))

    def forward(self, inputs: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """The logits of a batch of images."""
        return self.forward_head(self.forward_features(inputs))


def _stage(before: int, after: int, depth: int, normalisation: Normalisation) -> nn.Sequential:
    layers: list[nn.Module] = []
    for block in range(depth):
        stride = 2 if block == 0 else 1
        layers += [
            nn.Conv2d(before if block == 0 else after, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after) if normalisation == "batch" else nn.GroupNorm(_groups(after), after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _groups(channels: int) -> int:
    """The largest number of groups, up to 8, that divides the channels evenly with at least 4 in each."""
    return next(groups for groups in (8, 4, 2, 1) if groups == 1 or (channels % groups == 0 and channels >= 4 * groups))
