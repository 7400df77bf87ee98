"""The diabetes data that come with scikit-learn: the regression that takes seconds."""

from dataclasses import KW_ONLY, field

import numpy as np
import torch
from torch.utils.data import DataLoader

from lightning_losses.data.bags import BaggedSamples, BagSampler, bags_of
from lightning_losses.data.loading import Batch, SamplesInMemory, SplitData, digest_of
from lightning_losses.numerics.settings import Count, NonNegative


class Diabetes(SplitData):
    """442 patients: ten measurements, and how far the disease went in a year.

    Inputs and target are shifted and scaled to mean 0 and variance 1 over the training split.

    Args:
        target_noise: the standard deviation of normal noise that is added to the training targets, at least 0;
            `split_seed` fixes it. Validation and test targets stay as they are.
        bag_size: training samples in each bag; None for no bags. `split_seed` groups the samples at random, and only
            the mean target of a bag is known: it is the target of each of its samples. Batches consist of whole bags,
            and have the number of each sample's bag as `spans`, for `AggregateLoss`. Samples that fill no bag are left
            out. In validation and test each sample is a bag of its own.
        num_features: what the data have, and no other number; a configuration builds its networks by it.
        batch_size, val_fraction, test_fraction, split_seed, seed, num_workers, pin_memory, batch: as `SplitData` takes
            them.

    Attributes:
        unit: the training targets' standard deviation, of which the targets are counted.

    Raises:
        ValueError: another number of features; a batch, or a process's share of it, that isn't made of whole bags.

    Source:
        Efron, Hastie, Johnstone, Tibshirani, 2004, "Least Angle Regression", Annals of Statistics 32.

    Example:
        >>> data = Diabetes(batch_size=32)
        >>> data.setup()
        >>> len(data.train), len(data.val), len(data.test)
        (222, 110, 110)
    """

    name = "diabetes"
    val_fraction = 0.25
    test_fraction = 0.25

    _: KW_ONLY
    target_noise: NonNegative = 0.0
    bag_size: Count | None = None
    num_features: int = 10
    unit: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_features != 10:
            raise ValueError(f"{self.name}: num_features={self.num_features} came; it has 10 features.")
        self._check_batch(self.batch_size)

    def splits(self) -> tuple[SamplesInMemory, SamplesInMemory, SamplesInMemory]:
        """Read, split and normalise."""
        try:
            from sklearn.datasets import load_diabetes
        except ImportError as error:
            raise ValueError(
                "diabetes: scikit-learn is not installed; pip install 'lightning-losses[data]' brings it."
            ) from error
        inputs, target = load_diabetes(return_X_y=True)
        # RandomState's stream is frozen for good; a Generator's may change between versions of numpy.
        order = np.random.RandomState(self.split_seed).permutation(len(target))
        val, test = round(self.val_fraction * len(order)), round(self.test_fraction * len(order))
        parts = np.split(order, [len(order) - val - test, len(order) - test])
        seen, self.unit = parts[0], float(target[parts[0]].std())
        inputs = (inputs - inputs[seen].mean(axis=0)) / inputs[seen].std(axis=0)
        target = (target - target[seen].mean()) / self.unit
        target[seen] += self.target_noise * np.random.RandomState(self.split_seed).standard_normal(len(seen))
        train, validation, testing = (
            SamplesInMemory(torch.from_numpy(inputs[part]).float(), torch.from_numpy(target[part]).float())
            for part in parts
        )
        if self.bag_size is None:
            return train, validation, testing
        bags = bags_of(len(train), self.bag_size, seed=self.split_seed)
        val_bags, test_bags = (torch.arange(len(part)).unsqueeze(1) for part in (validation, testing))
        return (
            BaggedSamples(train.inputs, train.target, bags),
            BaggedSamples(validation.inputs, validation.target, val_bags),
            BaggedSamples(testing.inputs, testing.target, test_bags),
        )

    def shuffled(self, batch_size: int, world: int, rank: int) -> DataLoader[Batch]:
        """This process's share of the training split, in the order of seed and epoch; whole bags, if there are any."""
        if not isinstance(self.train, BaggedSamples):
            return super().shuffled(batch_size, world, rank)
        self._check_batch(batch_size)
        return self.loader(self.train, batch_size, BagSampler(self.train, world, rank, self.seed))

    def _check_batch(self, batch_size: int) -> None:
        if batch_size % (self.bag_size or 1):
            raise ValueError(
                f"{self.name}: bag_size={self.bag_size} came for batches of {batch_size} samples in each process; give "
                f"batches of a multiple of {self.bag_size}."
            )

    def fingerprint(self) -> str:
        """A hash of every sample of the three splits."""
        self.setup()
        return digest_of(self.train, self.val, self.test)
