"""Data that are small enough to stay on the device: every step uses the whole training split, without copies."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, field
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_losses.data.loading import Batch, BatchForm, in_form
from lightning_losses.numerics.settings import Count, Declared, Seed


class WholeBatch:
    """A loader that yields the same batch several times.

    Example:
        >>> [len(batch["target"]) for batch in WholeBatch({"target": torch.zeros(5)}, repeats=2)]
        [5, 5]
    """

    def __init__(self, batch: Batch, repeats: int = 1, form: BatchForm = "mapping") -> None:
        self.batch = batch
        self.repeats = repeats
        self.form = form

    def __len__(self) -> int:
        return self.repeats

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.repeats):
            # A new mapping, so that a step's additions to its batch don't reach the next step.
            yield in_form(dict(self.batch), self.form)

    def state_dict(self) -> dict[str, int]:
        """Empty: every batch is followed by the same one."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to restore."""


class ResidentData(Declared, L.LightningDataModule):
    """Base of the full-batch tasks: batches ``{"inputs", "target"}`` of a whole split, kept on the training device.

    A subclass makes its tensors in `make`, using only `self.generator()`. Validation and test both use the held-out
    split, because these tasks study when a network generalises, and select nothing by it. With several processes each
    holds the whole split, so every process takes the same step.

    Args:
        seed: seed of the samples and of the split.
        steps_per_epoch: number of optimizer steps per epoch, each on the whole split; work per epoch, such as
            checkpoints, is done once for all of them. An epoch has equally many batches, or fewer for a module that
            takes several steps per batch (`FullBatchLearner.steps_per_batch`).
        batch: the form of batches: a "mapping" by the glossary's names, or a "tuple" of `inputs` and `target`.

    Attributes:
        name: snake_case id.
        train, test: the two splits, once `setup` has run.
        num_classes: C; 1 for regression.
        num_features: the width of the inputs.

    Raises:
        ValueError: fewer than 1 step per epoch, or steps that don't fill whole batches of the module.
    """

    name = ""

    _: KW_ONLY
    seed: Seed = 0
    steps_per_epoch: Count = 50
    batch: BatchForm = "mapping"
    num_classes: int = field(init=False)
    num_features: int = field(init=False)
    train: Batch = field(init=False)
    test: Batch = field(init=False)

    def make(self) -> tuple[Batch, Batch]:
        """The training and the held-out split."""
        raise NotImplementedError

    def generator(self) -> torch.Generator:
        """The task's own random generator, independent of the program's others."""
        return torch.Generator().manual_seed(self.seed)

    def setup(self, stage: str | None = None) -> None:
        """Make the splits once, and move them to the training device."""
        if not hasattr(self, "train"):
            self.train, self.test = self.make()
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            self.train = {name: tensor.to(device) for name, tensor in self.train.items()}
            self.test = {name: tensor.to(device) for name, tensor in self.test.items()}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batch itself, if it is already on the device."""
        if all(tensor.device == device for tensor in (batch.values() if isinstance(batch, dict) else batch)):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def train_dataloader(self) -> WholeBatch:
        """The training split, repeated for `steps_per_epoch` optimizer steps."""
        module = None if self.trainer is None else self.trainer.lightning_module
        steps_per_batch = getattr(module, "steps_per_batch", 1)
        if self.steps_per_epoch % steps_per_batch:
            raise ValueError(
                f"{self.name}: steps_per_epoch={self.steps_per_epoch} came for a module that takes {steps_per_batch} "
                f"steps on each batch; give a multiple of {steps_per_batch}."
            )
        return WholeBatch(self.train, self.steps_per_epoch // steps_per_batch, self.batch)

    def val_dataloader(self) -> WholeBatch:
        """The held-out split."""
        return WholeBatch(self.test, form=self.batch)

    def test_dataloader(self) -> WholeBatch:
        """The held-out split."""
        return WholeBatch(self.test, form=self.batch)


def random_split(
    inputs: Float[Tensor, "samples features"],
    target: Shaped[Tensor, "samples ..."],
    train_samples: int,
    generator: torch.Generator,
) -> tuple[Batch, Batch]:
    """Split samples at random: the first ones of a permutation are for training, the others held out."""
    order: Int[Tensor, " samples"] = torch.randperm(len(target), generator=generator)
    parts = order[:train_samples], order[train_samples:]
    train, test = ({"inputs": inputs[part], "target": target[part]} for part in parts)
    return train, test
