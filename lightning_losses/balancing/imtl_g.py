"""IMTL-G: the direction that has the same projection on every term's gradient."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import GradientBalancing, unit_gram


class IMTLG(GradientBalancing):
    """IMTL-G, impartial gradients: weights with sum 1 whose direction has equal projections on all unit gradients.

    With n the gradients' lengths and C their cosines, ``v = pinv(C) 1 / n`` and ``w = v / Σ v``; for independent
    gradients v solves ``G v = n``, with G their products. Weights may be negative, and large if Σ v is near 0; if it is
    0, as for opposite gradients, the direction is 0. A gradient of 0 is left out.

    Args:
        shared: see `GradientBalancing`.

    Source:
        Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang, 2021, "Towards Impartial Multi-Task Learning", ICLR. Confirmed
        against TorchJD 0.18.0 and LibMTL, whose class also scales losses by IMTL-L.

    Example:
        >>> IMTLG().coefficients(torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64)))
        tensor([0.6667, 0.3333], dtype=torch.float64)
    """

    def coefficients(self, gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        """The weights w."""
        weights = torch.zeros(len(gram), dtype=gram.dtype)
        cosines, lengths, kept = unit_gram(gram)
        if len(lengths):
            solved = torch.linalg.pinv(cosines, hermitian=True).sum(dim=1)
            # Prevents overflow if all gradients are short.
            scaled = solved / (lengths / lengths.min())
            if scaled.sum().abs() > 1e-12 * scaled.abs().sum():
                weights[kept] = scaled / scaled.sum()
        return weights
