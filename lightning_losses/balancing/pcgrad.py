"""PCGrad: removes from each gradient the component that opposes another."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import GradientBalancing, Step


class PCGrad(GradientBalancing):
    """PCGrad, gradient surgery: each gradient is projected onto the normal plane of every gradient that it opposes.

    For each term i, ``v = g_i``; for the others j in a random order, ``v -= (v·g_j / |g_j|²) g_j`` where ``v·g_j < 0``.
    The direction is the sum of the v. Without conflicts it is the plain sum; a gradient of 0 conflicts with none.

    Args:
        shared: see `GradientBalancing`.
        reduction: "sum", as in the authors' code, or "mean".
        seed: seed of the orders, which are the same on all processes and in a resumed run.

    Source:
        Yu, Kumar, Gupta, Levine, Hausman, Finn, 2020, "Gradient Surgery for Multi-Task Learning", arXiv:2001.06782.
        Confirmed against TorchJD 0.18.0; LibMTL also projects a gradient onto its own plane.

    Example:
        >>> policy = PCGrad()
        >>> policy.begin(terms=2)
        >>> policy.coefficients(torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64))
        tensor([1.5000, 1.5000], dtype=torch.float64)
    """

    reduction: Literal["sum", "mean"] = "sum"
    seed: int = 0

    def begin(self, terms: int) -> None:
        """Create the number of steps done."""
        super().begin(terms)
        self.count_steps()

    def orders(self, terms: int) -> list[list[int]]:
        """For each term, the random order of the gradients in this step."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps_done)
        return [torch.randperm(terms, generator=generator).tolist() for _ in range(terms)]

    def coefficients(self, gram: Float[Tensor, "terms terms"]) -> Float[Tensor, " terms"]:
        """The coefficients of the sum, or mean, of the projected gradients."""
        projected = torch.eye(len(gram), dtype=gram.dtype)
        for term, order in enumerate(self.orders(len(gram))):
            held = projected[term]
            for other in order:
                product = held @ gram[:, other]
                if other != term and product < 0:
                    held[other] -= product / gram[other, other]
        return projected.sum(dim=0) if self.reduction == "sum" else projected.mean(dim=0)

    def update(self, step: Step) -> None:
        """Count it."""
        self.count_step()
