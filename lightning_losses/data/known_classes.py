"""Some classes of a data set, to train on, and foreign sets beside them: its other classes, other data, noise."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lightning_losses.data.image_data import ImageData, ImageDataset, Images
from lightning_losses.data.noise import GaussianNoise
from lightning_losses.numerics.settings import Whole


class KnownClasses(ImageData):
    """The samples of some classes of another data set, numbered anew, and foreign sets to tell from them.

    Foreign sets are the samples of the classes that are left out, all samples of further data sets, and Gaussian noise.
    Further data are brought to the shape of the known by interpolation, images to images and rows to rows. All but the
    noise are in the units of the known training split.

    Args:
        source: the data set; its splits and noise are not used, but its reading.
        left_out: the classes that are left out.
        foreign: further data sets, by name.
        noise_rows: how many rows of standard normal noise there are; 0 for none.
        batch_size, val_fraction, ...: see `ImageData`.

    Raises:
        ValueError: classes that the source lacks, or fewer than two left; further data by the name of one's own foreign
            sets; foreign data of other channels, or images beside rows.

    Example:
        >>> from lightning_losses.data import Digits
        >>> data = KnownClasses(source=Digits(), left_out=[8, 9], num_classes=8, input_shape=[1, 8, 8])
        >>> data.setup()
        >>> {name: len(part) for name, part in data.foreign_sets().items()}
        {'left out': 354, 'noise': 1000}
    """

    name = "known_classes"

    _: KW_ONLY
    source: ImageData
    left_out: Sequence[int] = (8, 9)
    foreign: Mapping[str, ImageData] = field(default_factory=dict)
    noise_rows: Whole = 1000

    def __post_init__(self) -> None:
        if isinstance(self.left_out, str) or not isinstance(self.left_out, Sequence):
            raise ValueError(f"{self.name}: left_out={self.left_out!r} came; give a list of classes, empty for none.")
        gone, classes = set(self.left_out), self.source.num_classes
        if not gone <= set(range(classes)) or classes - len(gone) < 2:
            raise ValueError(
                f"{self.name}: left_out={list(self.left_out)} came for {self.source.name} of {classes} classes; leave "
                "at least two of them."
            )
        if taken := {"left out", "noise"} & set(self.foreign):
            raise ValueError(f"{self.name}: foreign data came by the name {min(taken)!r}, which is taken; rename them.")
        names = tuple(type(self.source).class_names) if hasattr(type(self.source), "class_names") else ()
        self._names = names or tuple(map(str, range(classes)))
        kept = [name for place, name in enumerate(self._names) if place not in gone]
        self.class_names = tuple(kept)  # type: ignore[misc]
        super().__post_init__()

    def _described(self) -> tuple[int, tuple[int, ...]]:
        return self.source.num_classes - len(set(self.left_out)), tuple(self.source.input_shape)

    def prepare_data(self) -> None:
        """Have all data at hand."""
        for data in (self.source, *self.foreign.values()):
            data.prepare_data()

    def read(self) -> Images:
        """The known classes' samples, their classes numbered from 0 in the source's order."""
        images = self.source.read()
        known = ~np.isin(images.target, list(self.left_out))
        kept = np.setdiff1d(np.arange(self.source.num_classes), list(self.left_out))
        return Images(images.pixels[known], np.searchsorted(kept, images.target[known]))

    def foreign_sets(self) -> dict[str, ImageDataset]:
        """The foreign sets by name, as the network sees them; no sample has a target."""
        self.setup()
        images = self.source.read()
        sets = {"left out": images.pixels[np.isin(images.target, list(self.left_out))]} if self.left_out else {}
        sets |= {name: resized(data.read().pixels, self.input_shape, name) for name, data in self.foreign.items()}
        inputs = {
            name: ((torch.from_numpy(pixels) - self.input_mean) / self.input_deviation).float()
            for name, pixels in sets.items()
        }
        if self.noise_rows:
            noise = GaussianNoise(input_shape=self.input_shape, rows=self.noise_rows, seed=self.split_seed)
            inputs["noise"] = noise.drawn()
        return {name: ImageDataset(rows, torch.full((len(rows),), -100)) for name, rows in inputs.items()}


def resized(pixels: NDArray[np.float32], shape: Sequence[int], name: str = "resized") -> NDArray[np.float32]:
    """Images or rows in another size: means of areas where they become smaller, else linear interpolation.

    Example:
        >>> resized(np.arange(4, dtype=np.float32).reshape(1, 1, 4), [1, 2]).tolist()
        [[[0.5, 2.5]]]
    """
    before, after = pixels.shape[1:], tuple(shape)
    if before == after:
        return pixels
    if len(before) != len(after) or before[0] != after[0]:
        raise ValueError(
            f"{name}: inputs of shape {list(before)} came beside {list(after)}; give images beside images "
            "and rows beside rows, of as many channels."
        )
    linear = {"mode": "linear" if len(after) == 2 else "bilinear", "align_corners": False}
    options: Any = {"mode": "area"} if after[1] < before[1] else linear
    return F.interpolate(torch.from_numpy(pixels), size=after[1:], **options).numpy()
