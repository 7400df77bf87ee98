"""Aligned-MTL: makes the gradients' principal directions equally long before they are added up."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import GradientBalancing

# Rounding of singular values, for any gradient dtype: products of float32 have its rounding errors.
_EPS = torch.finfo(torch.float32).eps


class AlignedMTL(GradientBalancing):
    """Aligned-MTL: with ``J = U S Vᵀ`` the gradients as rows, the direction is the sum of the rows of ``σ U Vᵀ``.

    σ is the smallest singular value that is not 0, their median, or the root of their mean square. Singular values
    below rounding are left out, so linearly dependent gradients count once.

    Args:
        shared: see `GradientBalancing`.
        reduction: "sum" of the aligned rows, as in the authors' code, or their "mean", as in TorchJD.
        scale: "min", "median" or "rmse".

    Source:
        Senushkin, Patakin, Kuznetsov, Konushin, 2023, "Independent Component Alignment for Multi-Task Learning",
        arXiv:2305.19000. Confirmed against TorchJD 0.18.0.

    Example:
        >>> AlignedMTL().coefficients(torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64)))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """

    reduction: Literal["sum", "mean"] = "sum"
    scale: Literal["min", "median", "rmse"] = "min"

    def coefficients(self, gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        """``σ U S⁻¹ Uᵀ 1``, divided by T for "mean"."""
        each = torch.full((len(gram),), 1.0 if self.reduction == "sum" else 1 / len(gram), dtype=gram.dtype)
        squares, vectors = torch.linalg.eigh(gram)
        kept = squares > squares[-1] * len(gram) * _EPS
        if not kept.any():
            return each
        values, vectors = squares[kept].sqrt(), vectors[:, kept]
        sigma = {"min": values.min, "median": values.median, "rmse": lambda: squares[kept].mean().sqrt()}[self.scale]()
        return vectors @ ((vectors.T @ each) * (sigma / values))
