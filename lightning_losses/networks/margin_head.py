"""A classifier's head whose logits are cosines with a vector for each class, as losses with margins take them."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_count
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.equiangular import equiangular_basis
from lightning_losses.numerics.probabilities import full_precision


class MarginHead(nn.Module):
    """The cosine of the features with a vector for each class, or with the nearest of several: no lengths, no bias.

    ``z_c = max_k f · w_ck / (|f| |w_ck|)`` over the K sub-centres of class c; features of length 0 have cosines of 0.
    Scale the logits before softmax, as losses with margins do in training; by themselves they make unconfident
    predictions.

    Args:
        in_features: the features' width.
        num_classes: C.
        sub_centers: K, vectors for each class: samples that a class's first vector does not suit (another kind, or a
            wrong label) gather at another one.
        embedding_dim: D, the width of a linear layer between features and class vectors; None for none, and D is
            `in_features`.
        fixed: the class vectors are an `equiangular_basis`, which nothing trains: `EBV`.

    Attributes:
        weight: [C K, D], the classes' vectors; those of class c are rows c K to c K + K - 1.
        embedding: the linear layer, or one that changes nothing; what it returns is compared with the class vectors.

    Shapes:
        features: [..., in_features]; returns [..., C], in float32 at least.

    Raises:
        ValueError: a size below 1; a fixed basis with several sub-centres.

    Source:
        Deng, Guo, Liu, Gong, Zafeiriou, 2020, "Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web
        Faces", ECCV.

    Example:
        >>> head = MarginHead(2, 2)
        >>> with torch.no_grad():
        ...     _ = head.weight.copy_(torch.tensor([[3.0, 0.0], [1.0, 1.0]]))
        >>> head(torch.tensor([[0.0, 2.0]]))
        tensor([[0.0000, 0.7071]], grad_fn=<MmBackward0>)
    """

    weight: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        sub_centers: int = 1,
        embedding_dim: int | None = None,
        fixed: bool = False,
    ) -> None:
        super().__init__()
        width = in_features if embedding_dim is None else embedding_dim
        sizes = {"in_features": in_features, "num_classes": num_classes, "sub_centers": sub_centers}
        for name, size in {**sizes, "embedding_dim": width}.items():
            check_count("margin_head", name, size)
        if fixed and sub_centers > 1:
            raise ValueError(
                f"margin_head: sub_centers={sub_centers} came with fixed=True; sub-centres are learned, so give one of "
                "them."
            )
        self.in_features, self.num_classes, self.sub_centers, self.fixed = in_features, num_classes, sub_centers, fixed
        self.embedding = nn.Identity() if embedding_dim is None else nn.Linear(in_features, embedding_dim)
        if fixed:
            self.register_buffer("weight", equiangular_basis(num_classes, width))
        else:
            self.weight = nn.Parameter(torch.empty(num_classes * sub_centers, width))
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, features: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows classes"]:
        """The cosines."""
        vectors = self.embedding(features)
        with torch.autocast(features.device.type, enabled=False):
            directions = unit_rows(full_precision(vectors))
            cosines = directions @ unit_rows(full_precision(self.weight)).t().to(directions.dtype)
            return nearest_sub_center(cosines, self.sub_centers)

    def extra_repr(self) -> str:
        """The sizes, and what is not as by default."""
        further = {"sub_centers": self.sub_centers > 1, "fixed": self.fixed}
        told = [f"{name}={getattr(self, name)}" for name, shown in further.items() if shown]
        return ", ".join([f"in_features={self.in_features}", f"num_classes={self.num_classes}", *told])


def nearest_sub_center(cosines: Float[Tensor, "*rows vectors"], sub_centers: int) -> Float[Tensor, "*rows classes"]:
    """The largest cosine of each class's sub-centres.

    Example:
        >>> nearest_sub_center(torch.tensor([0.1, 0.9, -0.5, -0.2]), 2)
        tensor([ 0.9000, -0.2000])
    """
    if sub_centers == 1:
        return cosines
    return cosines.reshape(*cosines.shape[:-1], cosines.shape[-1] // sub_centers, sub_centers).amax(dim=-1)


def with_margin_head(
    network: nn.Module, sub_centers: int = 1, embedding_dim: int | None = None, fixed: bool = False
) -> nn.Module:
    """The network with a `MarginHead` in the place of its last linear layer.

    Args:
        network: ends with an ``nn.Linear``, which gives the sizes.
        sub_centers, embedding_dim, fixed: of the head.

    Raises:
        ValueError: a network whose last layer with parameters is no linear one.

    Example:
        >>> with_margin_head(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), sub_centers=3)[2].weight.shape
        torch.Size([6, 3])
    """
    owned = [name for name, part in network.named_modules() if any(True for _ in part.parameters(recurse=False))]
    head: Any = network.get_submodule(owned[-1]) if owned else None
    if not isinstance(head, nn.Linear) or not owned[-1]:
        came = "no layer with parameters" if head is None else f"a {type(head).__name__}"
        raise ValueError(
            f"with_margin_head: {type(network).__name__} ends with {came}; give a network that ends with an nn.Linear, "
            "or put a MarginHead in its place."
        )
    margin_head = MarginHead(head.in_features, head.out_features, sub_centers, embedding_dim, fixed)
    network.set_submodule(owned[-1], margin_head.to(head.weight.device, head.weight.dtype))
    return network
