"""A multilayer perceptron with ReLU."""

import itertools
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.networks.margin_head import MarginHead
from lightning_losses.numerics.checks import check_number


class MLP(nn.Module):
    """Linear layers with ReLU between them, with torch's initialisation.

    Args:
        num_features: number of inputs.
        num_classes: C, the number of logits.
        hidden: the widths of the hidden layers; an empty list makes a linear classifier.
        bias: whether the layers have biases; without them the network is homogeneous, with its depth as degree.
        cosine_head: whether the head is a `MarginHead`, as losses with margins take its logits.

    Attributes:
        stages: the hidden layers.
        head: the last layer.

    Raises:
        ValueError: a width below 1.

    Example:
        >>> import torch
        >>> MLP(6, 3, hidden=[8, 8], bias=False)(torch.zeros(2, 6)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        hidden: Sequence[int] = (200, 200),
        bias: bool = True,
        cosine_head: bool = False,
    ) -> None:
        super().__init__()
        for name, width in (("num_features", num_features), ("num_classes", num_classes),
                            *(("hidden", width) for width in hidden)):  # fmt: skip
            check_number("mlp", name, width, least=1)
        widths = [num_features, *hidden]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, after, bias=bias), nn.ReLU())
                for before, after in itertools.pairwise(widths)
            )
        )
        linear = nn.Linear(widths[-1], num_classes, bias=bias)
        self.head: nn.Module = MarginHead(widths[-1], num_classes) if cosine_head else linear

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """The logits of a batch of inputs, flattened."""
        return self.head(self.stages(inputs.flatten(1)))
