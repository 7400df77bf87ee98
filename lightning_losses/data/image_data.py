"""Images that fit in memory, as a LightningDataModule whose batches carry the glossary's names."""

import hashlib
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_losses.data.loading import Batch, Loading
from lightning_losses.data.resumable import ResumableSampler
from lightning_losses.data.seeded_views import Augmentation, SeededViews, ViewSampler
from lightning_losses.data.splits import stratified_order, stratified_split
from lightning_losses.numerics.checks import check_count, check_number


class Images(NamedTuple):
    """What a data set reads: [n, channels, height, width] pixels in [0, 1], and [n] class indices."""

    pixels: NDArray[np.float32]
    target: NDArray[np.int64]


class ImageDataset(Dataset[Batch]):
    """Images in memory; asked for a list of positions, it answers with the whole batch.

    `index` counts within this dataset, from 0: what methods that remember samples go by.

    Example:
        >>> dataset = ImageDataset(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]))
        >>> dataset.__getitems__([2, 1])["target"].tolist()
        [0, 1]
    """

    def __init__(self, inputs: Float[Tensor, "samples channels height width"], target: Int[Tensor, " samples"]) -> None:
        self.inputs = inputs
        self.target = target

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, position: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([position]).items()}

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of the samples at these positions."""
        index = torch.as_tensor(positions)
        return {"inputs": self.inputs[index], "target": self.target[index], "index": index}


class ImageData(L.LightningDataModule):
    """Base of the image data sets: a fixed split, normalised inputs, batches ``{"inputs", "target", "index"}``.

    A subclass reads its images in `read` and states `name`, `num_classes`, `input_shape` and `class_names`. Inputs are
    shifted and scaled to mean 0 and variance 1 over the whole training split, whatever `train_rows` leaves of it: a
    teacher of more rows and a student of fewer see the same inputs. The order of training samples depends on `seed`
    and the epoch alone, so that a resumed run sees what an uninterrupted one sees.

    Args:
        batch_size: the samples of one optimizer step, over all processes together.
        val_fraction: the share of validation.
        test_fraction: the share of test.
        split_seed: fixes the split.
        seed: fixes the order of the training samples.
        num_classes: if given, what the data must have; a configuration builds its networks by it.
        input_shape: likewise, [channels, height, width].
        label_noise: the share of training labels, in [0, 1], that another class takes, each other one as likely;
            `split_seed` fixes which. Validation and test labels stay as they are.
        train_rows: how many training samples are kept, with the classes' shares (`stratified_order`); None for all.
            `split_seed` fixes which; fewer rows are among more, and keep their labels, wrong ones too.
        augmentation: makes a view of one image from it and a generator, such as `RandomShift`; None shows images as
            they are.
        views: how many views each training image has, one an epoch; from then on they repeat, so that a teacher that
            was evaluated on all of them once has seen what a student sees (`SeededViews`).
        pairs: let training batches hold each image's next view too, as `other_inputs`; with augmentation.
        num_workers, pin_memory: as `Loading` takes them.

    Attributes:
        train, val, test: the three splits, once `setup` has run.
        views_of_train: all views of the training split; None without augmentation.

    Raises:
        ValueError: a batch size that the processes can't share; classes or a shape that the data don't have; a share
            out of range; more rows than the training split has.
    """

    num_classes: int
    input_shape: tuple[int, ...]
    class_names: ClassVar[tuple[str, ...]]
    train: ImageDataset
    val: ImageDataset
    test: ImageDataset
    views_of_train: SeededViews | None = None

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        seed: int = 0,
        num_classes: int | None = None,
        input_shape: Sequence[int] | None = None,
        label_noise: float = 0.0,
        train_rows: int | None = None,
        augmentation: Augmentation | None = None,
        views: int = 1,
        pairs: bool = False,
        num_workers: int = 0,
        pin_memory: bool | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"{self.name}: batch_size={batch_size} came; give at least 1.")
        if num_classes is not None and num_classes != self.num_classes:
            raise ValueError(f"{self.name}: num_classes={num_classes} came; it has {self.num_classes} classes.")
        if input_shape is not None and tuple(input_shape) != self.input_shape:
            raise ValueError(f"{self.name}: input_shape={list(input_shape)} came; it has {list(self.input_shape)}.")
        check_number(str(self.name), "label_noise", label_noise, least=0, most=1)
        if train_rows is not None:
            check_number(str(self.name), "train_rows", train_rows, least=1)
        check_count(str(self.name), "views", views)
        if views > 1 and augmentation is None:
            raise ValueError(f"{self.name}: views={views} came without augmentation; give one, or one view.")
        self.loading = Loading(num_workers, pin_memory)
        self.augmentation = augmentation
        self.views = views
        self.pairs = pairs
        self.train_rows = train_rows
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.seed = seed
        self.label_noise = label_noise
        self._fingerprint: str | None = None

    def read(self) -> Images:
        """The whole data set."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read, split and normalise; done once."""
        if hasattr(self, "train"):
            return
        images = self.read()
        split = stratified_split(
            images.target, val_fraction=self.val_fraction, test_fraction=self.test_fraction, seed=self.split_seed
        )
        seen = images.pixels[split.train]
        mean = seen.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
        deviation = seen.std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
        inputs = torch.from_numpy(((images.pixels - mean) / np.maximum(deviation, 1e-8)).astype(np.float32))
        target = torch.from_numpy(images.target)
        self.train, self.val, self.test = (ImageDataset(inputs[part], target[part]) for part in split)
        kept = self._kept(self.train.target.numpy())
        if self.label_noise > 0:
            self.train.target = flipped(
                self.train.target, self.num_classes, fraction=self.label_noise, seed=self.split_seed
            )
        if kept is not None:
            self.train = ImageDataset(self.train.inputs[kept], self.train.target[kept])
        if self.augmentation is not None:
            self.views_of_train = SeededViews(self.train, self.augmentation, self.views, self.split_seed, self.pairs)

    def _kept(self, target: NDArray[np.int64]) -> Int[Tensor, " rows"] | None:
        if self.train_rows is None:
            return None
        if self.train_rows > len(target):
            raise ValueError(
                f"{self.name}: train_rows={self.train_rows} came; the training split has {len(target)} samples."
            )
        return torch.from_numpy(np.sort(stratified_order(target, self.split_seed)[: self.train_rows]))

    def fingerprint(self) -> str:
        """A hash of every sample of the three splits, as the networks see them; made once."""
        if self._fingerprint is None:
            self.setup()
            content = hashlib.sha256()
            for dataset in (self.train, self.val, self.test):
                content.update(dataset.inputs.numpy().tobytes())
                content.update(dataset.target.numpy().tobytes())
            self._fingerprint = content.hexdigest()
        return self._fingerprint

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches, each process its share."""
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        if self.batch_size % world:
            raise ValueError(
                f"{self.name}: batch_size={self.batch_size} came with {world} processes; give a multiple "
                f"of {world}, each process takes its share."
            )
        if self.views_of_train is not None:
            view_sampler = ViewSampler(self.views_of_train, world, rank, self.seed)
            return self._loader(self.views_of_train, self.batch_size // world, view_sampler)
        # Also for one process, since Lightning tells this sampler the epoch: the order is that of (seed, epoch).
        sampler = ResumableSampler(self.train, world, rank, shuffle=True, seed=self.seed)
        return self._loader(self.train, self.batch_size // world, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split in order, whole on every process."""
        return self._loader(self.val, 4 * self.batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split in order, whole on every process."""
        return self._loader(self.test, 4 * self.batch_size)

    def _loader(
        self, dataset: Dataset[Batch], batch_size: int, sampler: ResumableSampler | None = None
    ) -> DataLoader[Batch]:
        return self.loading.loader(dataset, batch_size, sampler, trainer=self.trainer)


def flipped(
    target: Int[Tensor, " samples"], num_classes: int, *, fraction: float, seed: int
) -> Int[Tensor, " samples"]:
    """Labels of which a fraction, to within a sample, is another class, each other one as likely.

    Example:
        >>> target = torch.zeros(10, dtype=torch.long)
        >>> int((flipped(target, 3, fraction=0.3, seed=0) != target).sum())
        3
    """
    # RandomState's stream is frozen for good; a Generator's may change between versions of numpy.
    random = np.random.RandomState(seed)
    chosen = torch.from_numpy(random.permutation(len(target))[: round(fraction * len(target))])
    shift = torch.from_numpy(random.randint(1, num_classes, size=len(chosen)))
    noisy = target.clone()
    noisy[chosen] = (noisy[chosen] + shift) % num_classes
    return noisy
