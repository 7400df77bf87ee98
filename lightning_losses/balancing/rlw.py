"""Random loss weighting: draws new weights in every step."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.balancing.base import Balancing, Step


class RLW(Balancing):
    """Random loss weighting: ``w = softmax(g)`` with g from a standard normal, drawn for each optimizer step.

    The weights add up to 1. They depend only on the seed and the number of steps done. So all processes and all batches
    of a step have the same weights, a resumed run continues with them, and no other random numbers change.

    Args:
        seed: seed of the draws.

    Source:
        Lin, Ye, Zhang, Tsang, 2022, "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
        Learning", arXiv:2111.10603. Confirmed against TorchJD 0.18.0.

    Example:
        >>> policy = RLW(seed=3)
        >>> policy.begin(terms=2)
        >>> round(policy.weights(torch.ones(2)).sum().item(), 6)
        1.0
    """

    seed: int = 0

    def begin(self, terms: int) -> None:
        """Create the number of steps done."""
        super().begin(terms)
        self.count_steps()

    def draws(self) -> Float[Tensor, " terms"]:
        """The step's standard normal numbers."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps_done)
        return torch.randn(self.terms, generator=generator, dtype=torch.float64)

    def weights(self, losses: Float[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """The step's."""
        weights = self.draws().softmax(dim=0)
        # Copied from pinned memory, a GPU need not be waited for.
        return weights.pin_memory().to(losses.device, non_blocking=True) if losses.is_cuda else weights

    def update(self, step: Step) -> None:
        """Count it."""
        self.count_step()
