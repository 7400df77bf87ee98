"""A projection head without parameters, which scales the coordinates of a feature by falling factors."""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import Bound

Factor = Annotated[float, Bound(least=1)]


class FixedReweightingHead(nn.Module):
    """A projection head without parameters, which scales the coordinates of a feature by falling factors.

    ``z_i = h_i κ^(-i)``, i from 0: train a contrastive loss on z, and keep the features h. A contrastive loss learns
    strong features first; the head takes the strongest ones as strong as they are and asks more of the features behind
    it, so that h keeps weak features that z loses. It is what a trained projection head does, without training one.

    Args:
        kappa: κ, at least 1; 1 is no head.

    Shapes:
        features: [..., D]; returns [..., D], in float32 at least.

    Raises:
        ValueError: a κ below 1.

    Source:
        Xue, Gan, Ni, Joshi, Mirzasoleiman, 2024, "Investigating the Benefits of Projection Head for Representation
        Learning", arXiv:2403.11391.

    Example:
        >>> FixedReweightingHead(2.0)(torch.ones(1, 4))
        tensor([[1.0000, 0.5000, 0.2500, 0.1250]])
    """

    def __init__(self, kappa: Factor) -> None:
        super().__init__()
        check_number("fixed_reweighting_head", "kappa", kappa, least=1)
        self.kappa = kappa

    def forward(self, features: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """The scaled coordinates."""
        wide = full_precision(features)
        place = torch.arange(wide.shape[-1], device=wide.device, dtype=wide.dtype)
        return wide * torch.exp(-math.log(self.kappa) * place)

    def extra_repr(self) -> str:
        """κ."""
        return f"kappa={self.kappa}"
