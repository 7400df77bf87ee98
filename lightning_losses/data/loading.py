"""How batches come to the device: processes that make them ahead, and memory that a GPU copies from by itself."""

from dataclasses import dataclass
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_losses.data.resumable import ResumableLoader, ResumableSampler
from lightning_losses.numerics.checks import check_number

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Loading:
    """What a data module's loaders have in common.

    Args:
        num_workers: processes that make batches ahead and stay between epochs; 0 makes each batch when it is asked for,
            which is the fastest way where data lie in memory and need no work.
        pin_memory: put batches into memory that is never swapped out, from where a GPU copies them while the host goes
            on; None does so where the run is on a CUDA device.
    """

    num_workers: int = 0
    pin_memory: bool | None = None

    def __post_init__(self) -> None:
        check_number("loading", "num_workers", self.num_workers, least=0)

    def loader(
        self,
        dataset: Dataset[Batch],
        batch_size: int,
        sampler: ResumableSampler | None = None,
        *,
        trainer: L.Trainer | None,
        drop_last: bool = False,
    ) -> DataLoader[Batch]:
        """Whole batches of a dataset that answers a list of positions: in order, or in that of a sampler."""
        on_cuda = trainer is not None and trainer.strategy.root_device.type == "cuda"
        options: dict[str, Any] = {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": on_cuda if self.pin_memory is None else self.pin_memory,
            "collate_fn": _as_is,
            "drop_last": drop_last,
        }
        if sampler is None:
            return DataLoader(dataset, batch_size, **options)
        return ResumableLoader(dataset, batch_size, sampler, **options)


def _as_is(batch: Any) -> Any:
    return batch
