"""A small convolutional network for signals, as student or, if wider, as teacher."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.networks.margin_head import MarginHead
from lightning_losses.numerics.checks import check_number


class Conv1D(nn.Module):
    """Three convolutions of stride 2 with ReLU, over 5, 3 and 3 positions, and a linear head on the flattened output.

    It has no normalisation, so it computes the same function in training and evaluation, and several seeds can be
    trained at once.

    Args:
        num_classes: C, the number of logits.
        in_chans: the channels of the signals.
        width: the channels of each convolution.
        length: length of the signals.
        cosine_head: whether the head is a `MarginHead`, as losses with margins take its logits.

    Attributes:
        feature_info: the stages, as timm describes them.
        num_features: number of inputs of the head.

    Shapes:
        inputs: [B, in_chans, length]; returns [B, C].

    Source:
        Greydanus and Kobak, 2020, arXiv:2011.14439, whose network for MNIST-1D has these layers with 25 channels.

    Example:
        >>> import torch
        >>> Conv1D(num_classes=10, width=8)(torch.zeros(2, 1, 40)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, num_classes: int = 10, in_chans: int = 1, width: int = 16, length: int = 40, cosine_head: bool = False
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "in_chans": in_chans, "width": width, "length": length}
        for name, value in sizes.items():
            check_number("conv1d", name, value, least=8 if name == "length" else 1)
        self.stages = nn.Sequential(_stage(in_chans, width, 5), _stage(width, width, 3), _stage(width, width, 3))
        left = ((length - 3) // 2 + 1 + 1) // 2
        self.num_features = width * ((left + 1) // 2)
        self.head = (MarginHead if cosine_head else nn.Linear)(self.num_features, num_classes)
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": width, "reduction": 2 ** (stage + 1), "module": f"stages.{stage}"} for stage in range(3)
        ]

    def forward(self, inputs: Float[Tensor, "batch channels length"]) -> Float[Tensor, "batch classes"]:
        """The logits of a batch of signals."""
        return self.head(self.stages(inputs).flatten(1))


def _stage(before: int, after: int, positions: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(before, after, positions, stride=2, padding=1), nn.ReLU())
