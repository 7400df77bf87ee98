"""Batches with equally many samples of every domain, as losses that compare domains need them."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_losses.samplers.class_balanced_sampler import ClassBalancedSampler


class DomainBalancedSampler(ClassBalancedSampler):
    """Batches with equally many samples of every domain, as losses that compare domains need them.

    The samples of a batch come domain by domain in turns, so that each process's share holds all domains too, where it
    has a multiple of their number. A domain's samples come in a shuffled order, and in another one when all have come.

    Args:
        domain: [n] the domain of each sample, any whole numbers; samples of domain -100 never come.
        batch_size: of all processes together; a multiple of the number of domains.
        num_replicas: the number of processes.
        rank: this process.
        seed: of all draws, with the epoch.

    Raises:
        ValueError: a batch size that the domains or the processes can't share evenly.

    Example:
        >>> domain = torch.tensor([0, 0, 0, 0, 0, 1, 1])
        >>> domain[list(DomainBalancedSampler(domain, batch_size=4))[:4]].sort().values.tolist()
        [0, 0, 1, 1]
    """

    def __init__(
        self,
        domain: Sequence[int] | Int[Tensor, " n"],
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        domains = len(set(torch.as_tensor(domain).tolist()) - {-100})
        if domains == 0 or batch_size % domains:
            raise ValueError(
                f"domain_balanced_sampler: batch_size={batch_size} came for {domains} domains; give a multiple of "
                "their number."
            )
        super().__init__(domain, batch_size, batch_size // domains, num_replicas, rank, seed)

    def plan(self) -> Int[Tensor, "batches batch"]:
        """The samples of each batch, domain by domain in turns."""
        planned = super().plan()
        return planned.view(len(planned), -1, self.samples_per_class).mT.flatten(1)
