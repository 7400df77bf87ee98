"""How batches come to the device: three splits, their loaders, and memory that a GPU copies from by itself."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_losses.data.resumable import ResumableLoader, ResumableSampler
from lightning_losses.environment.two_lightnings import is_named
from lightning_losses.numerics.settings import Bound, Count, Declared, Seed

Batch = dict[str, Tensor]
BatchForm = Literal["mapping", "tuple"]
Fraction = Annotated[float, Bound(above=0, below=1)]


# What a tuple may leave out: who takes it remembers no samples.
_LEFT_OUT = {"index", "view_index"}


def in_form(batch: Batch, form: BatchForm) -> Batch | tuple[Tensor, Tensor]:
    """A batch as it is, or as a tuple of `inputs` and `target`, as most projects' modules take it.

    Raises:
        ValueError: a tuple of a batch that holds more.

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
    """A batch by the glossary's names: a tuple of two, or what collators of transformers make, with `labels`.

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
    """A data set in memory: asked for a list of positions, by `__getitems__`, it answers with the whole batch."""

    def __getitem__(self, position: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([position]).items()}

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of the samples at these positions."""
        raise NotImplementedError


class SplitData(Declared, L.LightningDataModule):
    """Base of the data sets with a training, a validation and a test split, and batches that carry names.

    A subclass makes the splits in `splits`. The order of training samples depends on `seed` and the epoch alone, so
    that a resumed run sees what an uninterrupted one sees.

    Args:
        batch_size: the samples of one optimizer step, over all processes together.
        val_fraction: the share of validation.
        test_fraction: the share of test.
        split_seed: fixes the splits.
        seed: fixes the order of the training samples.
        num_workers: processes that make batches ahead and stay between epochs; 0 makes each batch when it is asked for,
            which is the fastest way where data lie in memory and need no work.
        batch: what loaders give: a "mapping" by the glossary's names, or a "tuple" of `inputs` and `target`.
        pin_memory: put batches into memory that is never swapped out, from where a GPU copies them while the host goes
            on; None does so where the run is on a CUDA device.

    Attributes:
        train, val, test: the three splits, once `setup` has run.
        drop_last: whether training leaves out an epoch's last batch where it is smaller.

    Raises:
        ValueError: a value out of range; a batch size that the processes can't share.
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
        """Read and split; done once."""
        if not hasattr(self, "train"):
            self.train, self.val, self.test = self.splits()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches, each process its share."""
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        if self.batch_size % world:
            raise ValueError(
                f"{self.name}: batch_size={self.batch_size} came with {world} processes; give a multiple of {world}, "
                "each process takes its share."
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
        # Also for one process, since Lightning tells this sampler the epoch.
        sampler = ResumableSampler(self.train, world, rank, shuffle=True, seed=self.seed)
        return self.loader(self.train, batch_size, sampler)

    def loader(
        self, dataset: Dataset[Batch], batch_size: int, sampler: ResumableSampler | None = None
    ) -> DataLoader[Batch]:
        """Whole batches of a dataset that answers a list of positions: in order, or in that of a sampler."""
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
    """This process's share of the training set, each sample once, in the data set's own order.

    All processes have equally many batches, since a sharded network's forward passes are of all of them at once.

    Args:
        who: the name that errors begin with.
        trainer: whose training loader's data set it is.
        batch_size: of the batches, 256 for None; a data set that gives whole batches keeps its own.
        remedy: what to do where there is no such data set.

    Raises:
        ValueError: training data without a data set of known length, or of fewer samples than processes; a data set of
            whole batches that the processes can't share evenly.
    """
    loader: Any = trainer.train_dataloader
    dataset = getattr(loader, "dataset", None)
    if dataset is None or isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{who}: the training data come from a {type(loader).__name__} without a data set of known length; "
            f"{remedy}."
        )
    batched = getattr(loader, "batch_size", None) is None and getattr(loader, "batch_sampler", None) is None
    world, rank, length = trainer.world_size, trainer.global_rank, len(dataset)
    if length < world or (batched and length % world):
        kind, remedy = ("batches", "a multiple of that") if batched else ("samples", "at least one for each")
        raise ValueError(f"{who}: a training set of {length} {kind} came with {world} processes; give {remedy}.")
    if batched:
        return DataLoader(dataset, batch_size=None, sampler=range(rank, length, world), collate_fn=loader.collate_fn)
    own, size = list(range(rank, length, world)), batch_size or 256
    # As many as the smallest share makes; a share that has a sample more has it in its last batch.
    begins = range(0, length // world, size)
    parts = [own[begin : begin + size] if begin != begins[-1] else own[begin:] for begin in begins]
    return DataLoader(dataset, batch_sampler=parts, collate_fn=loader.collate_fn)


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
