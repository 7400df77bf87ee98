"""A loader that continues within an epoch, at the position of a checkpoint."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from lightning_losses.samplers.resumable import ResumableSampler


class ResumableLoader(DataLoader[Any]):
    """A `DataLoader` whose `state_dict` holds the epoch and the number of its batches taken so far.

    Lightning saves it in every checkpoint; from a checkpoint within an epoch it continues with the next batch.

    Args:
        dataset: a data set of known length.
        batch_size: batch size per process.
        sampler: the sampler, which decides the order in each epoch.
        **options: see `DataLoader`. With workers, prefetched batches don't count as taken, and prefetching begins only
            with the first batch, because Lightning creates the iterator before it tells the sampler the epoch.

    Example:
        >>> def loader():
        ...     return ResumableLoader(list(range(6)), 2, ResumableSampler(list(range(6)), 1, 0, shuffle=False))
        >>> first, second = loader(), loader()
        >>> next(iter(first))
        tensor([0, 1])
        >>> second.load_state_dict(first.state_dict())
        >>> list(second)
        [tensor([2, 3]), tensor([4, 5])]
    """

    def __init__(self, dataset: Dataset[Any], batch_size: int, sampler: ResumableSampler, **options: Any) -> None:
        if options.get("num_workers"):
            # The workers' seeds are drawn late, and must not change the random numbers of the training.
            options = {"generator": torch.Generator(), **options}
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, **options)
        self._sampler = sampler
        self._taken = 0

    def __iter__(self) -> Any:
        """The epoch's batches, or the rest of them."""
        # Without workers, creating the iterator draws a random number, so create it now like any DataLoader.
        return self._counted(iter(()) if self.num_workers else super().__iter__())

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        assert self.batch_size is not None
        self._taken = self._sampler.samples_left_out // self.batch_size
        for batch in super().__iter__() if self.num_workers else batches:
            self._taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the number of its batches taken so far."""
        return {"epoch": self._sampler.epoch, "batches": self._taken}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Skip the batches taken so far, if the next epoch is the saved one."""
        assert self.batch_size is not None
        self._sampler.leave_out(samples=state_dict["batches"] * self.batch_size, epoch=state_dict["epoch"])
