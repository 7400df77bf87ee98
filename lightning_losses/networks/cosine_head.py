"""A classifier's head whose logits are cosines, as losses with margins take them."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_count
from lightning_losses.numerics.probabilities import full_precision


class CosineHead(nn.Module):
    """The cosine of the features with a vector for each class: no lengths, no bias.

    ``z_c = f · w_c / (|f| |w_c|)``; features of length 0 have cosines of 0. Scale the logits before softmax, as `LDAM`
    does in training; by themselves they make unconfident predictions.

    Args:
        in_features: D, the features' width.
        num_classes: C.

    Attributes:
        weight: [C, D], the classes' vectors.

    Shapes:
        features: [..., D]; returns [..., C], in float32 at least.

    Example:
        >>> head = CosineHead(2, 2)
        >>> with torch.no_grad():
        ...     _ = head.weight.copy_(torch.tensor([[3.0, 0.0], [1.0, 1.0]]))
        >>> head(torch.tensor([[0.0, 2.0]]))
        tensor([[0.0000, 0.7071]], grad_fn=<MmBackward0>)
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        check_count("cosine_head", "in_features", in_features)
        check_count("cosine_head", "num_classes", num_classes)
        self.in_features, self.num_classes = in_features, num_classes
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, features: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows classes"]:
        """The cosines."""
        with torch.autocast(features.device.type, enabled=False):
            directions = F.normalize(full_precision(features), dim=-1)
            return directions @ F.normalize(full_precision(self.weight), dim=-1).t().to(directions.dtype)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"in_features={self.in_features}, num_classes={self.num_classes}"


def with_cosine_head(network: nn.Module) -> nn.Module:
    """The network with a `CosineHead` in the place of its last linear layer.

    Raises:
        ValueError: a network whose last layer with parameters is no linear one.

    Example:
        >>> with_cosine_head(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))[2]
        CosineHead(in_features=3, num_classes=2)
    """
    owned = [name for name, part in network.named_modules() if any(True for _ in part.parameters(recurse=False))]
    head: Any = network.get_submodule(owned[-1]) if owned else None
    if not isinstance(head, nn.Linear) or not owned[-1]:
        came = "no layer with parameters" if head is None else f"a {type(head).__name__}"
        raise ValueError(
            f"with_cosine_head: {type(network).__name__} ends with {came}; give a network that ends with an nn.Linear, "
            "or put a CosineHead in its place."
        )
    network.set_submodule(owned[-1], CosineHead(head.in_features, head.out_features))
    return network
