"""Images or signals that fit in memory, as a LightningDataModule with batches under the glossary's names."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, field
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_losses.data.label_noise import NoiseKind, transition_matrix, with_label_noise
from lightning_losses.data.loading import Batch, SamplesInMemory, SplitData, digest_of
from lightning_losses.data.long_tail import long_tailed
from lightning_losses.data.packing import IGNORED
from lightning_losses.data.seeded_views import Augmentation, SeededViews, ViewSampler
from lightning_losses.data.splits import Split, stratified_order, stratified_split
from lightning_losses.numerics.settings import Bound, Count, Share, Whole
from lightning_losses.samplers.class_balanced_sampler import ClassBalancedSampler
from lightning_losses.samplers.disjoint_pseudo_label_sampler import DisjointPseudoLabelSampler, pseudo_labels
from lightning_losses.samplers.resumable import BatchPlanSampler


class Images(NamedTuple):
    """The raw data: [n, channels, height, width] pixels, or [n, channels, length] signals, and [n] class indices."""

    pixels: NDArray[np.float32]
    target: NDArray[np.int64]


class ImageDataset(SamplesInMemory):
    """Images in memory and their classes; a list of positions returns the whole batch.

    `index` is the position in this dataset, from 0; methods that remember samples use it.

    Example:
        >>> dataset = ImageDataset(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]))
        >>> dataset.__getitems__([2, 1])["target"].tolist()
        [0, 1]
    """


class ImageData(SplitData):
    """Base of the image data sets: a fixed split, normalised inputs, batches ``{"inputs", "target", "index"}``.

    A subclass reads its images in `read` and states `name`, `num_classes`, `input_shape` and `class_names`. Inputs are
    shifted and scaled to mean 0 and variance 1 over the whole training split, independently of `train_rows`: a teacher
    with more rows and a student with fewer see the same inputs.

    Args:
        batch_size, val_fraction, test_fraction, split_seed, seed, num_workers, pin_memory: see `SplitData`.
        num_classes: the data's number of classes, and no other; configurations build their networks with it.
        input_shape: the data's shape, [channels, height, width], likewise.
        label_noise: the share of training labels, in [0, 1], that are replaced by another class; `split_seed` fixes
            which. Validation and test labels don't change.
        noise_kind: "symmetric", all other classes with equal probability; "asymmetric", the next class; "instance", by
            the sample's inputs (`with_label_noise`).
        long_tail: the ratio of training samples between the most and the least frequent class, at least 1; the other
            classes follow a geometric series, and `split_seed` fixes the classes' order. `train_rows` then selects
            among these samples.
        train_rows: number of training samples to keep, with the classes' shares (`stratified_order`); None keeps all.
            `split_seed` fixes which; a smaller number selects a subset of a larger one, with the same labels, including
            wrong ones.
        labelled_rows: number of these samples that keep their label, with the classes' shares; the others get the
            target -100, which losses ignore unless they have another `ignore_index`. None is all; a smaller number
            selects a subset of a larger one.
        augmentation: a function that makes a view of one image with a generator, such as `RandomShift`; None uses the
            images unchanged.
        views: number of views of each training image, one per epoch; afterwards they repeat. So a teacher that was
            evaluated once on all views has seen everything that a student sees (`SeededViews`).
        pairs: whether training batches also hold each image's next view, as `other_inputs`; needs two views at least.
        samples_per_class: how many samples of each of its classes a training batch holds (`ClassBalancedSampler`); None
            shuffles all samples.
        pseudo_labels: into how many clusters k-means divides the training inputs, so that each sample of a batch is of
            another one (`DisjointPseudoLabelSampler`); None does not.
        unseen_classes: how many classes, drawn by `split_seed`, are left out of training and validation; all their
            samples are the test split, and those of the other classes that it would hold are left out.

    Attributes:
        true_target: [n] the classes of the training samples before noise and before any label is taken away.
        views_of_train: all views of the training split; None without augmentation.
        input_mean, input_deviation: [1, channels, 1, ...] what pixels were shifted and scaled by, in float64.

    Raises:
        ValueError: a batch size that can't be divided among the processes; a number of classes or a shape that is not
            the data's; a share out of range; more rows than the training split has.
    """

    class_names: ClassVar[tuple[str, ...]]
    val_fraction = 0.2
    test_fraction = 0.2

    _: KW_ONLY
    num_classes: int = 0
    input_shape: Sequence[int] = ()
    label_noise: Share = 0.0
    noise_kind: NoiseKind = "symmetric"
    long_tail: Annotated[float, Bound(least=1)] = 1.0
    train_rows: Count | None = None
    labelled_rows: Count | None = None
    augmentation: Augmentation | None = None
    views: Count = 1
    pairs: bool = False
    samples_per_class: Count | None = None
    pseudo_labels: Count | None = None
    unseen_classes: Whole = 0
    train: ImageDataset = field(init=False)
    val: ImageDataset = field(init=False)
    test: ImageDataset = field(init=False)
    true_target: Int[Tensor, " samples"] = field(init=False)
    views_of_train: SeededViews | None = field(init=False, default=None)
    input_mean: Float[Tensor, "1 channels ..."] = field(init=False)
    input_deviation: Float[Tensor, "1 channels ..."] = field(init=False)
    _fingerprint: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        classes, shape = self._described()
        if self.num_classes != classes:
            raise ValueError(f"{self.name}: num_classes={self.num_classes} came; it has {classes} classes.")
        if tuple(self.input_shape) != shape:
            raise ValueError(f"{self.name}: input_shape={list(self.input_shape)} came; it has {list(shape)}.")
        self.input_shape = shape
        if self.samples_per_class is not None and self.pseudo_labels is not None:
            raise ValueError(
                f"{self.name}: samples_per_class={self.samples_per_class} came with pseudo_labels="
                f"{self.pseudo_labels}; give one of them, which decide what a batch holds."
            )
        if self.unseen_classes and (self.unseen_classes > self.num_classes - 2 or self.long_tail > 1):
            raise ValueError(
                f"{self.name}: unseen_classes={self.unseen_classes} came with {self.num_classes} classes and long_tail="
                f"{self.long_tail:g}; leave two classes to train on, and long_tail=1."
            )
        if self.views > 1 and self.augmentation is None:
            raise ValueError(f"{self.name}: views={self.views} came without augmentation; give one, or one view.")
        if self.pairs and self.views < 2:
            raise ValueError(
                f"{self.name}: pairs=True came with one view, whose next is itself; give an augmentation, and two "
                "views or more."
            )

    def read(self) -> Images:
        """Read the whole data set."""
        raise NotImplementedError

    def _described(self) -> tuple[int, tuple[int, ...]]:
        """The number of classes and the shape of the data: those of the class's attributes."""
        return type(self).num_classes, tuple(type(self).input_shape)

    def _split(self, target: NDArray[np.int64]) -> Split:
        """The positions of the three splits."""
        return stratified_split(
            target, val_fraction=self.val_fraction, test_fraction=self.test_fraction, seed=self.split_seed
        )

    def dataset_of(
        self, inputs: Float[Tensor, "samples ..."], target: Int[Tensor, " samples"], positions: NDArray[np.int64]
    ) -> ImageDataset:
        """A split, or part of it, from its inputs and classes; `positions` are its samples' places in all data."""
        return ImageDataset(inputs, target)

    def _without_unseen(self, split: Split, target: NDArray[np.int64]) -> Split:
        """The splits of seen classes for training and validation, and of the others, all of them, for test."""
        if not self.unseen_classes:
            return split
        order = np.random.RandomState(self.split_seed).permutation(self.num_classes)
        unseen = np.isin(target, order[: self.unseen_classes])
        return Split(split.train[~unseen[split.train]], split.val[~unseen[split.val]], np.flatnonzero(unseen))

    def splits(self) -> tuple[ImageDataset, ImageDataset, ImageDataset]:
        """Read, split and normalise."""
        images = self.read()
        split = self._without_unseen(self._split(images.target), images.target)
        seen = images.pixels[split.train]
        axes = (0, *range(2, seen.ndim))
        mean = seen.mean(axis=axes, keepdims=True, dtype=np.float64)
        deviation = seen.std(axis=axes, keepdims=True, dtype=np.float64)
        deviation = np.maximum(deviation, 1e-8)
        inputs = torch.from_numpy(((images.pixels - mean) / deviation).astype(np.float32))
        self.input_mean, self.input_deviation = torch.from_numpy(mean), torch.from_numpy(deviation)
        target = torch.from_numpy(images.target)
        train, val, test = (self.dataset_of(inputs[part], target[part], part) for part in split)
        kept, labelled = self._kept(train.target.numpy())
        self.true_target = train.target if kept is None else train.target[kept]
        if self.label_noise > 0:
            train.target = with_label_noise(
                train.target,
                self.num_classes,
                share=self.label_noise,
                seed=self.split_seed,
                kind=self.noise_kind,
                features=train.inputs,
            )
        if labelled is not None:
            train.target = torch.full_like(train.target, IGNORED).index_copy(0, labelled, train.target[labelled])
        if kept is not None:
            train = self.dataset_of(train.inputs[kept], train.target[kept], split.train[kept])
        if self.augmentation is not None:
            self.views_of_train = SeededViews(train, self.augmentation, self.views, self.split_seed, self.pairs)
        return train, val, test

    def _kept(self, target: NDArray[np.int64]) -> tuple[Int[Tensor, " rows"] | None, Int[Tensor, " labelled"] | None]:
        """Positions of the training samples to keep, and of those that keep their label; None for all."""
        left = np.arange(len(target))
        if self.long_tail > 1:
            left = long_tailed(target, self.num_classes, ratio=self.long_tail, seed=self.split_seed)
        order = left[stratified_order(target[left], self.split_seed)]
        chosen: list[Int[Tensor, " chosen"] | None] = []
        for name, count in (("train_rows", self.train_rows), ("labelled_rows", self.labelled_rows)):
            if count is not None and count > len(order):
                raise ValueError(f"{self.name}: {name}={count} came; the training split has {len(order)} samples.")
            if count is not None and count < self.num_classes:
                raise ValueError(
                    f"{self.name}: {name}={count} came for {self.num_classes} classes; give at least "
                    f"{self.num_classes}, a sample of each."
                )
            order = order[:count]
            chosen.append(None if len(order) == len(target) else torch.from_numpy(np.sort(order)))
        return chosen[0], chosen[1]

    def wrong_label_share(self) -> float:
        """The share of wrong labels among the training samples that have one.

        It can differ from `label_noise` where `long_tail`, `train_rows` or `labelled_rows` leave fewer samples.
        """
        self.setup()
        labelled = self.train.target != IGNORED
        return (self.train.target != self.true_target)[labelled].double().mean().item()

    def transition_matrix(self) -> Float[Tensor, "classes classes"]:
        """The share of the training samples of each true class (row) that have each label (column)."""
        self.setup()
        return transition_matrix(self.true_target, self.train.target, self.num_classes)

    def fingerprint(self) -> str:
        """A hash of every sample of the three splits, as the networks see them; computed once."""
        if self._fingerprint is None:
            self.setup()
            self._fingerprint = digest_of(self.train, self.val, self.test)
        return self._fingerprint

    def shuffled(self, batch_size: int, world: int, rank: int) -> DataLoader[Batch]:
        """This process's share of the training split, or of its view in this epoch, in the order of seed and epoch."""
        planned = self.planned(batch_size * world, world, rank)
        if isinstance(planned, DisjointPseudoLabelSampler):
            rank_zero_info(f"{self.name}: {100 * planned.coverage:.1f} % of the training samples come in an epoch.")
        if self.views_of_train is not None:
            views = ViewSampler(self.views_of_train, world, rank, self.seed, planned)
            return self.loader(self.views_of_train, batch_size, views)
        if planned is None:
            return super().shuffled(batch_size, world, rank)
        return self.loader(self.train, batch_size, planned)

    def planned(self, batch_size: int, world: int, rank: int) -> BatchPlanSampler | None:
        """The sampler that decides what a batch of all processes holds, if a setting asks for one."""
        if self.samples_per_class is not None:
            return ClassBalancedSampler(self.train.target, batch_size, self.samples_per_class, world, rank, self.seed)
        if self.pseudo_labels is None:
            return None
        labels = pseudo_labels(self.train.inputs.flatten(1), self.pseudo_labels, self.split_seed)
        return DisjointPseudoLabelSampler(labels, batch_size, world, rank, self.seed)
