"""UPGrad: projects each gradient so that it conflicts with none, and averages the projections."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import GradientBalancing
from lightning_losses.balancing.quadratic import least_above


class UPGrad(GradientBalancing):
    """UPGrad: every gradient is projected onto the cone of directions along which no term gets worse, then averaged.

    The cone is ``{d : g·d >= 0 for all g}``; it is convex, so it contains the direction too. The projection of ``g_i``
    has the weights ``argmin vᵀ G v`` over ``v >= e_i``, with G the gradients' inner products. Solved exactly; TorchJD
    adds 1e-4 to G's scaled diagonal, and takes the plain mean if gradients are short. The terms' own weights serve as
    preferences.

    Args:
        shared: see `GradientBalancing`.
        reduction: "mean" of the projections, as in the authors' code, or their "sum".

    Source:
        Quinton, Rey, 2024, "Jacobian Descent for Multi-Objective Optimization", arXiv:2406.16232. Confirmed against
        TorchJD 0.18.0 without its regularization.

    Example:
        >>> UPGrad().coefficients(torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64))
        tensor([0.7500, 0.7500], dtype=torch.float64)
    """

    reduction: Literal["mean", "sum"] = "mean"

    def coefficients(self, gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        """The mean, or sum, of the projections' weights."""
        each = torch.eye(len(gram), dtype=gram.dtype)
        projections = torch.stack([least_above(gram, lower) for lower in each])
        return projections.mean(dim=0) if self.reduction == "mean" else projections.sum(dim=0)
