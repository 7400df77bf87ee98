"""MNIST-1D: ten shapes as sequences of forty numbers; in seconds it separates networks and objectives."""

import random
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_losses.data.image_data import ImageData, ImageDataset, Images
from lightning_losses.environment.atomic_files import replacing
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.numerics.settings import Bound, Count

_LENGTH = 40
# The generator's default seed is 42; ours begin here.
_FIRST_SEED = 1000


class MNIST1D(ImageData):
    """Shapes of ten classes as sequences of 40 numbers, padded, shifted, scaled, sheared and noisy.

    Every `split_seed` draws all samples anew. Drawing takes some seconds, once: the arrays are kept in the cache
    folder.

    Args:
        rows: size of the training split before `long_tail` and `train_rows`; a multiple of 10 is balanced.
        val_rows: size of the validation split.
        test_rows: size of the test split.
        shift: number of positions by which test samples are rolled, to make their domain differ from training.
        scale: factor of the test samples.
        noise: standard deviation of noise added to test samples, in units of the data's standard deviation.
        folder: the folder of the arrays; by default ``data`` in the library's cache folder, which the environment
            variable ``LIGHTNING_LOSSES_CACHE`` moves.
        batch_size, ...: see `ImageData`; `rows`, `val_rows` and `test_rows` set the fractions.

    Source:
        Greydanus and Kobak, 2020, "Scaling Down Deep Learning with MNIST-1D", arXiv:2011.14439; the generator is that
        of the package mnist1d (Apache-2.0) with its defaults. It seeds the global generators of Python and numpy; their
        states are restored.
    """

    name = "mnist1d"
    num_classes = 10
    input_shape = (1, _LENGTH)
    class_names = tuple("0123456789")

    _: KW_ONLY
    rows: Count = 4000
    val_rows: Count = 2000
    test_rows: Count = 10000
    shift: int = 0
    scale: Annotated[float, Bound(above=0)] = 1.0
    noise: Annotated[float, Bound(least=0)] = 0.0
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        labelled = self.rows + self.val_rows + self.test_rows
        self.val_fraction, self.test_fraction = self.val_rows / labelled, self.test_rows / labelled
        super().__post_init__()
        self.folder = Path(self.folder).expanduser() if self.folder else cache_folder() / "data"

    @property
    def file(self) -> Path:
        """The file of the arrays for this seed."""
        assert self.folder is not None
        return Path(self.folder) / f"mnist1d_{self._total}_{self.split_seed}.npz"

    @property
    def _total(self) -> int:
        return self.rows + self.val_rows + self.test_rows

    def prepare_data(self) -> None:
        """Draw and store the samples, unless a valid file exists."""
        if self._kept_arrays() is None:
            # The generator makes equally many of each class.
            inputs, target = _drawn(-(-self._total // 10) * 10, _FIRST_SEED + self.split_seed)
            with replacing(self.file, shared=True) as partial, partial.open("wb") as stream:
                np.savez_compressed(stream, inputs=inputs[: self._total], target=target[: self._total])

    def read(self) -> Images:
        """The samples that `prepare_data` stored."""
        self.prepare_data()
        kept = self._kept_arrays()
        if kept is None:
            raise ValueError(f"mnist1d: {self.file} can't be read back; is its disk full?")
        return Images(kept[0][:, None], kept[1])

    def splits(self) -> tuple[ImageDataset, ImageDataset, ImageDataset]:
        """The splits; the test split is moved to its domain."""
        train, val, test = super().splits()
        random_numbers = torch.Generator().manual_seed(self.split_seed)
        moved = self.scale * test.inputs.roll(self.shift, dims=-1)
        test.inputs = moved + self.noise * torch.randn(moved.shape, generator=random_numbers)
        return train, val, test

    def _kept_arrays(self) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        try:
            with self.file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                inputs, target = content["inputs"], content["target"]
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        whole = inputs.shape == (self._total, _LENGTH) and inputs.dtype == np.float32 and target.shape == (self._total,)
        return (inputs, target) if whole and np.isfinite(inputs).all() else None


def _drawn(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise ValueError(
            "mnist1d: the package mnist1d, which draws the samples, is not installed; pip install "
            "'lightning-losses[data]', or take data=digits."
        ) from error
    arguments = get_dataset_args()
    arguments.num_samples, arguments.train_split, arguments.seed = count, 1.0, seed
    with _global_generators_as_they_are():
        drawn = make_dataset(arguments)
    return drawn["x"].astype(np.float32), drawn["y"].astype(np.int64)


@contextmanager
def _global_generators_as_they_are() -> Iterator[None]:
    python, array = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
