"""Two overlapping Gaussians as small images: data with a known best possible prediction."""

from typing import Annotated

import numpy as np

from lightning_losses.data.image_data import ImageData, Images
from lightning_losses.numerics.settings import Bound


class OverlappingGaussians(ImageData):
    """Two classes of standard normal pixels, 3x10x10; one class is shifted by `distance` in every pixel.

    The Bayes classifier sums the pixels. It is right with probability ``Φ(distance √300 / 2)``: 0.985 at 0.25, 0.81 at
    0.1 and 0.67 at 0.05. More data don't reduce the remaining overlap.

    Args:
        distance: the distance between the means of a pixel, above 0.
        samples: number of samples in all three splits, at least 10.
        seed: seed of the samples and of their order in training.
        batch_size, ...: see `ImageData`; a fifth is for test, and a tenth of the rest for validation.

    Source:
        Chidambaram, Ge, 2023, "On the Limitations of Temperature Scaling for Distributions with Overlaps",
        arXiv:2306.00740; sizes and distances are those of their code, which draws the classes at random.

    Example:
        >>> data = OverlappingGaussians(samples=100)
        >>> data.setup()
        >>> len(data.train), len(data.val), len(data.test)
        (72, 8, 20)
    """

    name = "overlapping_gaussians"
    num_classes = 2
    input_shape = (3, 10, 10)
    class_names = ("at the origin", "shifted")
    batch_size = 500
    val_fraction = 0.08

    distance: Annotated[float, Bound(above=0, most=1e6)] = 0.1
    samples: Annotated[int, Bound(least=10)] = 5000

    def read(self) -> Images:
        """Draw the samples, half of each class."""
        # numpy guarantees RandomState's stream forever; a Generator's may change between versions.
        random = np.random.RandomState(self.seed)
        target = np.arange(self.samples) % 2
        pixels = random.standard_normal((self.samples, *self.input_shape))
        pixels += self.distance * target[:, None, None, None]
        return Images(pixels.astype(np.float32), target.astype(np.int64))
