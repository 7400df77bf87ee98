"""Two Gaussians that overlap, in the shape of small images: data whose best prediction is known."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lightning_losses.data.image_data import ImageData, Images
from lightning_losses.numerics.checks import check_number


class OverlappingGaussians(ImageData):
    """Two classes of standard normal pixels, 3x10x10, of which one is shifted by `distance` in every pixel.

    The Bayes classifier sums the pixels: it is right with probability ``Φ(distance √300 / 2)``, 0.985 at 0.25, 0.81 at
    0.1 and 0.67 at 0.05. The rest is overlap, which no amount of data removes.

    Args:
        distance: between the means of a pixel, above 0.
        samples: of the three splits together, at least 10.
        seed: of the samples and of their order in training.
        batch_size, val_fraction, test_fraction, split_seed, num_classes, input_shape, label_noise, train_rows,
            num_workers, pin_memory: as `ImageData` takes them; a fifth is for test and a tenth of the rest for
            validation.

    Source:
        Chidambaram, Ge, 2023, "On the Limitations of Temperature Scaling for Distributions with Overlaps",
        arXiv:2306.00740; sizes and distances are those of their code, which draws the classes by chance.

    Example:
        >>> data = OverlappingGaussians(samples=100)
        >>> data.setup()
        >>> len(data.train), len(data.val), len(data.test)
        (72, 8, 20)
    """

    name = "overlapping_gaussians"
    num_classes = 2
    input_shape = (3, 10, 10)
    class_names: ClassVar[tuple[str, ...]] = ("at the origin", "shifted")

    def __init__(
        self,
        distance: float = 0.1,
        samples: int = 5000,
        batch_size: int = 500,
        val_fraction: float = 0.08,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        seed: int = 0,
        num_classes: int | None = None,
        input_shape: Sequence[int] | None = None,
        label_noise: float = 0.0,
        train_rows: int | None = None,
        num_workers: int = 0,
        pin_memory: bool | None = None,
    ) -> None:
        check_number(self.name, "distance", distance, above=0)
        check_number(self.name, "samples", samples, least=10)
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
        self.distance = distance
        self.samples = samples

    def read(self) -> Images:
        """Draw the samples, half of each class."""
        # RandomState's stream is frozen for good; a Generator's may change between versions of numpy.
        random = np.random.RandomState(self.seed)
        target = np.arange(self.samples) % 2
        pixels = random.standard_normal((self.samples, *self.input_shape))
        pixels += self.distance * target[:, None, None, None]
        return Images(pixels.astype(np.float32), target.astype(np.int64))
