"""Samples in bags: of the targets of a bag's samples their mean alone is known."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_losses.data.loading import Batch, SamplesInMemory
from lightning_losses.samplers.resumable import ResumableSampler


def bags_of(samples: int, bag_size: int, *, seed: int) -> Int[Tensor, "bags size"]:
    """The positions of the samples of each bag, drawn at random; samples that fill no whole bag are in none.

    Args:
        samples: number of samples.
        bag_size: samples in each bag, at least 1.
        seed: the same seed gives the same bags on every machine.

    Raises:
        ValueError: fewer samples than a bag takes.

    Example:
        >>> bags_of(5, 2, seed=0).shape
        torch.Size([2, 2])
    """
    if not 1 <= bag_size <= samples:
        raise ValueError(f"bags_of: bag_size={bag_size} came for {samples} samples; give from 1 to {samples}.")
    # numpy guarantees RandomState's stream forever; a Generator's may change between versions.
    order = np.random.RandomState(seed).permutation(samples)
    return torch.from_numpy(order[: samples // bag_size * bag_size]).reshape(-1, bag_size)


class BaggedSamples(SamplesInMemory):
    """Samples in bags of one size, in memory: each has its bag's mean target, and its bag's number as `spans`.

    Args:
        inputs: [n, ...] the inputs of all samples.
        target: [n] their own targets, of which the bags' means are taken.
        bags: [bags, size] the positions of each bag's samples.

    Attributes:
        bags: [bags, size] the same samples' positions in this data set, bag after bag.

    Example:
        >>> bags = torch.tensor([[0, 3], [2, 1]])
        >>> samples = BaggedSamples(torch.zeros(4, 2), torch.tensor([1.0, 2.0, 3.0, 6.0]), bags)
        >>> batch = samples.__getitems__([2, 3])
        >>> batch["target"].tolist(), batch["spans"].tolist()
        ([2.5, 2.5], [1, 1])
    """

    def __init__(
        self, inputs: Shaped[Tensor, "samples ..."], target: Float[Tensor, " samples"], bags: Int[Tensor, "bags size"]
    ) -> None:
        means = target[bags].mean(dim=1, keepdim=True)
        super().__init__(inputs[bags.flatten()], means.expand(bags.shape).flatten())
        self.bags = torch.arange(bags.numel()).reshape(bags.shape)

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of the samples at these positions."""
        batch = super().__getitems__(positions)
        return {**batch, "spans": batch["index"] // self.bags.shape[1]}


class BagSampler(ResumableSampler):
    """Shuffled bags, each process its share, with all samples of a bag one after the other.

    Args:
        data: the samples in bags.
        num_replicas: the number of processes.
        rank: this process.
        seed: seed of the order of the bags.

    Example:
        >>> samples = BaggedSamples(torch.zeros(4, 2), torch.zeros(4), torch.tensor([[0, 3], [2, 1]]))
        >>> list(BagSampler(samples, 1, 0, seed=1))
        [2, 3, 0, 1]
    """

    def __init__(self, data: BaggedSamples, num_replicas: int, rank: int, seed: int = 0) -> None:
        bags: Any = data.bags
        super().__init__(bags, num_replicas, rank, shuffle=True, seed=seed)
        self.bags = data.bags

    def _order(self) -> Iterator[int]:
        for bag in super()._order():
            yield from self.bags[bag].tolist()

    def __len__(self) -> int:
        return super().__len__() * self.bags.shape[1]
