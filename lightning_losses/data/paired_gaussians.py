"""Pairs of classes that share a cluster: a network is rightly sure of some samples and wrongly of others."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from lightning_losses.data.image_data import ImageData, Images
from lightning_losses.numerics.settings import Bound, Share


class PairedGaussians(ImageData):
    """Ten classes of 1x10x10 normal pixels, in pairs: a sample is from its class's cluster or from its pair's.

    With probability `overlap` a sample is from the cluster that both classes of a pair share, where both are equally
    likely. Otherwise it is from its class's own cluster, where the class is certain. So the best accuracy is ``1 -
    overlap / 2``, apart from the noise of the clusters. A single temperature can't lower the confidence in the shared
    clusters alone.

    Args:
        overlap: the share of samples in shared clusters, in [0, 1].
        distance: distance of the clusters' centres from the origin, above 0, in random directions; the noise has a
            standard deviation of 1 in each pixel.
        samples: number of samples in all three splits, at least 50.
        seed: seed of the centres, of the samples and of their order in training.
        batch_size, ...: see `ImageData`.

    Source:
        The kind of data described by Chidambaram, Ge, 2023, "On the Limitations of Temperature Scaling for
        Distributions with Overlaps", arXiv:2306.00740: classes that overlap on a part of their support. The numbers are
        this library's.

    Example:
        >>> data = PairedGaussians(samples=100)
        >>> data.setup()
        >>> len(data.train), len(data.val), len(data.test)
        (60, 10, 30)
    """

    name = "paired_gaussians"
    num_classes = 10
    input_shape = (1, 10, 10)
    class_names = tuple(f"{pair}{side}" for pair in range(5) for side in "ab")
    batch_size = 250
    val_fraction = 0.1
    test_fraction = 0.3

    overlap: Share = 0.5
    distance: Annotated[float, Bound(above=0, most=1e6)] = 6.0
    samples: Annotated[int, Bound(least=50)] = 5000

    def read(self) -> Images:
        """Draw the centres, and equally many samples of each class."""
        # numpy guarantees RandomState's stream forever; a Generator's may change between versions.
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
