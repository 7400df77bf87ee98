"""The yeast genes that come with river: several labels for each sample."""

import gzip
import importlib.util
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_losses.data.loading import SamplesInMemory, SplitData, digest_of
from lightning_losses.environment.extras import advice


class LabelledSamples(SamplesInMemory):
    """Rows of features in memory, each with its labels.

    Example:
        >>> rows = LabelledSamples(torch.zeros(3, 2), torch.eye(3))
        >>> rows.__getitems__([2, 0])["multi_hot"].tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    target_name = "multi_hot"


class Yeast(SplitData):
    """2,417 genes of yeast: 103 measurements, and which of 14 functional classes they belong to, 4.2 on average.

    The file is that of the package river, which is not imported. Inputs are shifted and scaled to mean 0 and variance 1
    over the training split; batches hold `inputs`, `multi_hot` and `index`.

    Args:
        num_features: what the data have, and no other number; a configuration builds its networks by it.
        num_classes: likewise.
        batch_size, val_fraction, test_fraction, split_seed, seed, num_workers, pin_memory: as `SplitData` takes them.

    Raises:
        ValueError: other numbers of features or labels; without river's file.

    Source:
        Elisseeff, Weston, 2001, "A Kernel Method for Multi-Labelled Classification".
    """

    name = "yeast"
    val_fraction = 0.2
    test_fraction = 0.2
    class_names: ClassVar[tuple[str, ...]] = tuple(f"class {number}" for number in range(1, 15))

    _: KW_ONLY
    num_features: int = 103
    num_classes: int = 14
    train: LabelledSamples = field(init=False)
    val: LabelledSamples = field(init=False)
    test: LabelledSamples = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.num_features, self.num_classes) != (103, 14):
            raise ValueError(
                f"{self.name}: num_features={self.num_features} and num_classes={self.num_classes} came; it has 103 "
                "features and 14 labels."
            )

    def read(self) -> NDArray[np.float64]:
        """[samples, features and labels] the rows of the file.

        Raises:
            ValueError: without river, or without its file.
        """
        # To find a package doesn't import it.
        found = importlib.util.find_spec("river")
        if found is None:
            raise ValueError(f"{self.name}: {advice('river')}")
        folders = [Path(folder) for folder in found.submodule_search_locations or ()]
        files = [file for folder in folders if (file := folder / "datasets" / "yeast.csv.gz").is_file()]
        if not files:
            raise ValueError(f"{self.name}: the river that is installed has no datasets/yeast.csv.gz; install another.")
        with gzip.open(files[0], "rt", encoding="utf-8") as lines:
            return np.loadtxt(lines, delimiter=",", skiprows=1, ndmin=2)

    def splits(self) -> tuple[LabelledSamples, LabelledSamples, LabelledSamples]:
        """Read, split and normalise."""
        rows = self.read()
        inputs, labels = rows[:, : self.num_features], rows[:, self.num_features :]
        if labels.shape[1] != self.num_classes or not bool(np.isin(labels, (0, 1)).all()):
            raise ValueError(f"{self.name}: the file holds other columns than 103 features and 14 labels of 0 and 1.")
        # RandomState's stream is frozen for good; a Generator's may change between versions of numpy.
        order = np.random.RandomState(self.split_seed).permutation(len(rows))
        test, val = round(self.test_fraction * len(order)), round(self.val_fraction * len(order))
        parts = [np.sort(part) for part in np.split(order, [test, test + val])]
        seen = inputs[parts[2]]
        inputs = (inputs - seen.mean(axis=0)) / np.maximum(seen.std(axis=0), 1e-8)
        testing, validation, train = (
            LabelledSamples(torch.from_numpy(inputs[part]).float(), torch.from_numpy(labels[part]).float())
            for part in parts
        )
        return train, validation, testing

    def fingerprint(self) -> str:
        """A hash of every sample of the three splits."""
        self.setup()
        return digest_of(self.train, self.val, self.test)
