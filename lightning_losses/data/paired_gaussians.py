"""Classes in pairs that share a cluster: a network is rightly sure of one part and wrongly of the other."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from lightning_losses.data.image_data import ImageData, Images
from lightning_losses.numerics.settings import Bound, Share


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
        batch_size, ...: as `ImageData` takes them.

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
    class_names = tuple(f"{pair}{side}" for pair in range(5) for side in "ab")
    batch_size = 250
    val_fraction = 0.1
    test_fraction = 0.3

    overlap: Share = 0.5
    distance: Annotated[float, Bound(above=0, most=1e6)] = 6.0
    samples: Annotated[int, Bound(least=50)] = 5000

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
