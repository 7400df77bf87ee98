"""Samplers that continue within an epoch, one of them with batches that are planned whole."""

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DistributedSampler

from lightning_losses.numerics.checks import check_count


class ResumableSampler(DistributedSampler[Any]):
    """A `DistributedSampler` that can skip the samples of an epoch that were already trained on.

    Example:
        >>> sampler = ResumableSampler([0, 1, 2, 3], 1, 0, shuffle=False)
        >>> sampler.leave_out(samples=3, epoch=0)
        >>> list(sampler), list(sampler)
        ([3], [0, 1, 2, 3])
    """

    _left_out: tuple[int, int] = (0, 0)

    def leave_out(self, *, samples: int, epoch: int) -> None:
        """Skip the first samples of this process once, if the next epoch is the given one."""
        self._left_out = samples, epoch

    @property
    def samples_left_out(self) -> int:
        """The number of samples that the next iteration skips."""
        samples, epoch = self._left_out
        return samples if epoch == self.epoch else 0

    def __iter__(self) -> Iterator[Any]:
        """The epoch's order, or the rest of it."""
        start, self._left_out = self.samples_left_out, (0, 0)
        return itertools.islice(self._order(), start, None)

    def _order(self) -> Iterator[Any]:
        return super().__iter__()


class BatchPlanSampler(ResumableSampler):
    """Base of samplers that decide which samples come together in a batch.

    A subclass plans the whole batches of an epoch, of all processes, in `plan`; each process yields its share of every
    batch, one after the other. So the loader's own batch size must be the share: `batch_size` / `num_replicas`.

    Args:
        name: what errors begin with.
        samples: the size of the data set.
        batch_size: of a batch of all processes.
        num_replicas: the number of processes.
        rank: this process.
        seed: of every plan, with the epoch.

    Raises:
        ValueError: sizes out of range; a batch that the processes can't share evenly.
    """

    def __init__(self, name: str, samples: int, batch_size: int, num_replicas: int, rank: int, seed: int) -> None:
        check_count(name, "batch_size", batch_size)
        check_count(name, "num_replicas", num_replicas)
        if batch_size % num_replicas or not 0 <= rank < num_replicas:
            raise ValueError(
                f"{name}: batch_size={batch_size} came for process {rank} of {num_replicas}; give a multiple of the "
                "number of processes, and ranks from 0 on."
            )
        super().__init__(range(samples), num_replicas, rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.batch_size = batch_size

    @abstractmethod
    def plan(self) -> Int[Tensor, "batches batch"]:
        """The positions of the samples of every batch of this epoch; as many batches in every epoch."""

    def random(self) -> torch.Generator:
        """Random numbers of the seed and the epoch; those of the next seed's epochs are others."""
        state = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))

    def __len__(self) -> int:
        return len(self.plan()) * self.batch_size // self.num_replicas

    def _order(self) -> Iterator[Any]:
        own: Int[Tensor, "batches share"] = self.plan().chunk(self.num_replicas, dim=1)[self.rank]
        return iter(own.flatten().tolist())


def labels_of_samples(name: str, what: str, given: Sequence[int] | Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The labels as a tensor.

    Raises:
        ValueError: several numbers for a sample.

    Example:
        >>> labels_of_samples("demo", "target", [0, 1])
        tensor([0, 1])
    """
    labels = torch.as_tensor(given)
    if labels.ndim != 1:
        raise ValueError(f"{name}: {what} of shape {list(labels.shape)} came; give one number for each sample, [n].")
    return labels


def samples_by_label(labels: Int[Tensor, " n"]) -> dict[int, Int[Tensor, " members"]]:
    """The positions of each label's samples, in their order, by ascending labels.

    Example:
        >>> samples_by_label(torch.tensor([7, 2, 7]))
        {2: tensor([1]), 7: tensor([0, 2])}
    """
    ordered, order = labels.sort(stable=True)
    each, counts = torch.unique_consecutive(ordered, return_counts=True)
    return dict(zip(each.tolist(), torch.split(order, counts.tolist()), strict=True))
