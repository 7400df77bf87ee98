"""Three splits, their loaders, the form of batches, and pinned memory."""

import hashlib
from collections.abc import Mapping
from dataclasses import KW_ONLY, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import lightning as L
import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_losses.data.resumable import ResumableLoader
from lightning_losses.environment.two_lightnings import is_named
from lightning_losses.numerics.settings import Bound, Count, Declared, Seed
from lightning_losses.samplers.resumable import ResumableSampler

Batch = dict[str, Tensor]
BatchForm = Literal["mapping", "tuple"]
Fraction = Annotated[float, Bound(above=0, below=1)]


# Entries that a tuple may leave out: modules that take tuples don't remember samples.
_LEFT_OUT = {"index", "view_index"}


def in_form(batch: Batch, form: BatchForm) -> Batch | tuple[Tensor, Tensor]:
    """A batch unchanged, or as a tuple of `inputs` and `target`, as most projects' modules expect.

    Raises:
        ValueError: a tuple from a batch that holds more.

    Example:
        >>> batch = {"inputs": torch.zeros(2), "target": torch.ones(2), "index": torch.arange(2)}
        >>> in_form(batch, "tuple")
        (tensor([0., 0.]), tensor([1., 1.]))
    """
    if form == "mapping":
        return batch
    if set(batch) - _LEFT_OUT != {"inputs", "target"}:
        raise ValueError(
            f"data: batch='tuple' came, for batches of {', '.join(map(repr, batch))}; these data need batch='mapping'."
        )
    return batch["inputs"], batch["target"]


def named(who: str, batch: Any) -> Any:
    """A batch under the glossary's names, from a tuple of two, or from a collator of transformers with `labels`.

    Raises:
        ValueError: a batch of another form.

    Example:
        >>> named("example", (1, 2)), named("example", {"input_ids": 1, "attention_mask": 3, "labels": 2})
        ({'inputs': 1, 'target': 2}, {'inputs': {'input_ids': 1, 'attention_mask': 3}, 'target': 2})
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return {"inputs": batch[0], "target": batch[1]}
    if isinstance(batch, Mapping) and "labels" in batch and "target" not in batch:
        return {"inputs": {name: part for name, part in batch.items() if name != "labels"}, "target": batch["labels"]}
    if not isinstance(batch, Mapping) or "inputs" not in batch:
        raise unknown_batch(who, batch)
    return batch


def unknown_batch(who: str, batch: Any) -> ValueError:
    """The error for a batch of a form that the ready modules don't take."""
    came = f"a {type(batch).__name__}"
    if isinstance(batch, Mapping):
        came = ", ".join(map(repr, batch))
    elif isinstance(batch, tuple | list):
        came = f"a {type(batch).__name__} of {len(batch)}"
    return ValueError(
        f"{who}: a batch of {came} came; give a mapping of 'inputs' and 'target', a tuple of both, or a mapping of "
        "'labels' and what the network takes by name."
    )


class BatchDataset(Dataset[Batch]):
    """A data set in memory: `__getitems__` returns the whole batch for a list of positions."""

    def __getitem__(self, position: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([position]).items()}

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of the samples at these positions."""
        raise NotImplementedError


class SamplesInMemory(BatchDataset):
    """Inputs in memory and what belongs to each; `index` is a sample's position in this data set, from 0.

    Attributes:
        target_name: the name of the target in batches.

    Example:
        >>> samples = SamplesInMemory(torch.zeros(3, 2), torch.tensor([0.5, 1.5, 2.5]))
        >>> samples.__getitems__([2, 0])["target"].tolist()
        [2.5, 0.5]
    """

    target_name: ClassVar[str] = "target"

    def __init__(self, inputs: Shaped[Tensor, "samples ..."], target: Shaped[Tensor, "samples ..."]) -> None:
        self.inputs = inputs
        self.target = target

    def __len__(self) -> int:
        return len(self.target)

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of the samples at these positions."""
        index = torch.as_tensor(positions)
        return {"inputs": self.inputs[index], self.target_name: self.target[index], "index": index}


def digest_of(*datasets: SamplesInMemory) -> str:
    """A hash of every sample of these data sets.

    Example:
        >>> digest_of(SamplesInMemory(torch.zeros(1), torch.zeros(1)))[:8]
        'af5570f5'
    """
    content = hashlib.sha256()
    for dataset in datasets:
        content.update(dataset.inputs.numpy().tobytes())
        content.update(dataset.target.numpy().tobytes())
    return content.hexdigest()


class SplitData(Declared, L.LightningDataModule):
    """Base of the data sets with a training, a validation and a test split, and batches with names.

    A subclass makes the splits in `splits`. The order of training samples depends only on `seed` and the epoch, so that
    a resumed run sees the same samples as an uninterrupted one.

    Args:
        batch_size: number of samples per optimizer step, over all processes.
        val_fraction: the share of the validation split.
        test_fraction: the share of the test split.
        split_seed: fixes the splits.
        seed: fixes the order of the training samples.
        num_workers: number of processes that prepare batches in advance and stay alive between epochs; 0 makes each
            batch on demand, which is fastest if the data are in memory and need no processing.
        batch: the form of batches: a "mapping" by the glossary's names, or a "tuple" of `inputs` and `target`.
        pin_memory: put batches into page-locked memory, from which a GPU copies while the host continues; None does so
            on CUDA devices.

    Attributes:
        train, val, test: the three splits, once `setup` has run.
        drop_last: whether training omits an epoch's last batch if it is smaller.

    Raises:
        ValueError: a value out of range; a batch size that can't be divided among the processes.
    """

    name = ""
    drop_last: ClassVar[bool] = False

    _: KW_ONLY
    batch_size: Count = 64
    val_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1
    split_seed: Seed = 0
    seed: Seed = 0
    num_workers: Annotated[int, Bound(least=0, most=1024)] = 0
    batch: BatchForm = "mapping"
    pin_memory: bool | None = None
    train: Any = field(init=False)
    val: Any = field(init=False)
    test: Any = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"{self.name}: val_fraction={self.val_fraction} and test_fraction={self.test_fraction} came; give less "
                "than 1 together, the rest is for training."
            )

    def splits(self) -> tuple[Dataset[Batch], Dataset[Batch], Dataset[Batch]]:
        """The training, the validation and the test split."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read and split, once."""
        if not hasattr(self, "train"):
            self.train, self.val, self.test = self.splits()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches; each process gets its share."""
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        if self.batch_size % world:
            raise ValueError(
                f"{self.name}: batch_size={self.batch_size} came with {world} processes; give a multiple of {world}, "
                "because each process takes an equal share."
            )
        return self.shuffled(self.batch_size // world, world, rank)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split in order, whole on every process."""
        return self.loader(self.val, 4 * self.batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split in order, whole on every process."""
        return self.loader(self.test, 4 * self.batch_size)

    def shuffled(self, batch_size: int, world: int, rank: int) -> DataLoader[Batch]:
        """This process's share of the training split, in the order of seed and epoch."""
        # Also for one process, because Lightning tells this sampler the epoch.
        sampler = ResumableSampler(self.train, world, rank, shuffle=True, seed=self.seed)
        return self.loader(self.train, batch_size, sampler)

    def loader(
        self, dataset: Dataset[Batch], batch_size: int, sampler: ResumableSampler | None = None
    ) -> DataLoader[Batch]:
        """A loader of whole batches from a dataset with `__getitems__`, in order or in the order of a sampler."""
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        options: dict[str, Any] = {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": on_cuda if self.pin_memory is None else self.pin_memory,
            "collate_fn": partial(in_form, form=self.batch),
        }
        if sampler is None:
            return DataLoader(dataset, batch_size, **options)
        return ResumableLoader(dataset, batch_size, sampler, drop_last=self.drop_last, **options)


def share_of_training_set(
    who: str, trainer: L.Trainer, batch_size: int | None, *, remedy: str = "give a DataLoader"
) -> DataLoader[Any]:
    """A loader of this process's share of the training set: each sample once, in the data set's own order.

    All processes have equally many batches, since a sharded network's forward passes are of all of them at once.

    Args:
        who: the name that errors begin with.
        trainer: the trainer with the training loader.
        batch_size: batch size; None is 256. A data set that gives whole batches keeps its own.
        remedy: the advice in the error if there is no such data set.

    Raises:
        ValueError: training data without a data set of known length, or of fewer samples than processes; a data set of
            whole batches that the processes can't share evenly.
    """
    world, rank = trainer.world_size, trainer.global_rank
    return share_of_samples(who, trainer.train_dataloader, world, rank, batch_size, remedy=remedy)


def share_of_samples(
    who: str,
    loader: Any,
    world: int,
    rank: int,
    batch_size: int | None = None,
    *,
    kind: str = "training",
    remedy: str = "give a DataLoader",
) -> DataLoader[Any]:
    """A loader of a process's share of another loader's samples: each once, in the data set's own order.

    Of a sampler of some positions alone, such as `SubsetRandomSampler`, these are the samples. All processes have
    equally many batches.

    Args:
        who: the name that errors begin with.
        loader: whose samples they are.
        world: the number of processes.
        rank: of the process.
        batch_size: batch size; None is 256. A data set that gives whole batches keeps its own.
        kind: of data, for errors.
        remedy: the advice in the error if there is no data set of known length.

    Raises:
        ValueError: as `share_of_training_set`.

    Example:
        >>> samples = torch.utils.data.TensorDataset(torch.arange(5))
        >>> [batch.tolist() for (batch,) in share_of_samples("doc", DataLoader(samples), 2, 1)]
        [[1, 3]]
    """
    dataset = getattr(loader, "dataset", None)
    if dataset is None or isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{who}: the {kind} data come from a {type(loader).__name__} without a data set of known length; {remedy}."
        )
    batched = getattr(loader, "batch_size", None) is None and getattr(loader, "batch_sampler", None) is None
    # Whoever passes over the data draws no random number of the run's.
    options: dict[str, Any] = {"collate_fn": loader.collate_fn, "generator": torch.Generator()}
    chosen = getattr(getattr(loader, "sampler", None), "indices", range(len(dataset)))
    positions = sorted(int(position) for position in chosen)
    length = len(positions)
    if length < world or (batched and length % world):
        unit, advice = ("batches", "a multiple of that") if batched else ("samples", "at least one for each")
        raise ValueError(f"{who}: a {kind} set of {length} {unit} came with {world} processes; give {advice}.")
    own, size = positions[rank::world], batch_size or 256
    if batched:
        return DataLoader(dataset, batch_size=None, sampler=own, **options)
    # As many as the smallest share makes; a share that has a sample more has it in its last batch.
    begins = range(0, length // world, size)
    parts = [own[begin : begin + size] if begin != begins[-1] else own[begin:] for begin in begins]
    return DataLoader(dataset, batch_sampler=parts, **options)


def held_out_loader(who: str, trainer: L.Trainer) -> DataLoader[Any]:
    """The one loader of the validation split, also if the trainer does not validate.

    Args:
        who: the name that errors begin with.
        trainer: whose data they are.

    Raises:
        ValueError: no such loader, or several.
    """
    loader: Any = trainer.val_dataloaders
    if loader is None:
        source: Any = getattr(trainer, "datamodule", None) or trainer.lightning_module
        try:
            loader = source.val_dataloader()
        except Exception as error:
            # Of a source that has no such method of its own.
            if not is_named(error, "MisconfigurationException"):
                raise
    if not isinstance(loader, DataLoader) or len(loader) == 0:
        raise ValueError(
            f"{who}: there is no validation split to learn from; give the trainer one DataLoader of it, and "
            "limit_val_batches above 0."
        )
    return loader
