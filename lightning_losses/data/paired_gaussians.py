"""Classes in pairs that share a cluster: data where a network is rightly sure of most and wrongly of the rest."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lightning_losses.data.image_data import ImageData, Images
from lightning_losses.numerics.checks import check_number


class PairedGaussians(ImageData):
    """Ten classes of 1x10x10 normal pixels, in pairs: a sample comes from its class's cluster or from its pair's.

    With chance `overlap` it is of the cluster that both classes of a pair share, where their chances are even, and else
    of its class's own, where there is no doubt: the best accuracy is ``1 - overlap / 2``, but for what the clusters'
    noise adds. One temperature can't lower the confidence in the shared clusters alone.

    Args:
        overlap: the share of samples in clusters that two classes share, in [0, 1].
        distance: of the clusters' centres from the origin, above 0, in directions drawn by chance; the noise's
            deviation is 1 in each pixel.
        samples: of the three splits together, at least 50.
        seed: of the centres, of the samples and of their order in training.
        batch_size, val_fraction, test_fraction, split_seed, num_classes, input_shape, label_noise, train_rows,
            num_workers, pin_memory: as `ImageData` takes them.

    Source:
        The kind of data of which Chidambaram, Ge, 2023, "On the Limitations of Temperature Scaling for Distributions
        with Overlaps", arXiv:2306.00740, speak: classes that overlap on a part of their support; the numbers are ours.

    Example:
        >>> data = PairedGaussians(samples=100)
        >>> data.setup()
        >>> len(data.train), len(data.val), len(data.test)
        (60, 10, 30)
    """

    name = "paired_gaussians"
    num_classes = 10
    input_shape = (1, 10, 10)
    class_names: ClassVar[tuple[str, ...]] = tuple(f"{pair}{side}" for pair in range(5) for side in "ab")

    def __init__(
        self,
        overlap: float = 0.5,
        distance: float = 6.0,
        samples: int = 5000,
        batch_size: int = 250,
        val_fraction: float = 0.1,
        test_fraction: float = 0.3,
        split_seed: int = 0,
        seed: int = 0,
        num_classes: int | None = None,
        input_shape: Sequence[int] | None = None,
        label_noise: float = 0.0,
        train_rows: int | None = None,
        num_workers: int = 0,
        pin_memory: bool | None = None,
    ) -> None:
        check_number(self.name, "overlap", overlap, least=0, most=1)
        check_number(self.name, "distance", distance, above=0)
        check_number(self.name, "samples", samples, least=50)
        super().__init__(
            batch_size,
            val_fraction,
            test_fraction,
            split_seed,
            seed,
            num_classes,
            input_shape,
            label_noise,
            train_rows,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        self.overlap = overlap
        self.distance = distance
        self.samples = samples

    def read(self) -> Images:
        """Draw the centres, and as many samples of each class."""
        # RandomState's stream is frozen for good; a Generator's may change between versions of numpy.
        random = np.random.RandomState(self.seed)
        own, shared = self._centres(random, self.num_classes), self._centres(random, self.num_classes // 2)
        target = np.arange(self.samples) % self.num_classes
        in_shared = random.random_sample(self.samples) < self.overlap
        centre = np.where(in_shared[:, None], shared[target // 2], own[target])
        pixels = centre + random.standard_normal(centre.shape)
        return Images(pixels.reshape(-1, *self.input_shape).astype(np.float32), target.astype(np.int64))

    def _centres(self, random: np.random.RandomState, count: int) -> NDArray[np.float64]:
        directions = random.standard_normal((count, int(np.prod(self.input_shape))))
        return self.distance * directions / np.linalg.norm(directions, axis=1, keepdims=True)
