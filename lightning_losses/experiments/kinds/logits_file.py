"""Reads logits or probabilities and classes from a file of arrays or columns, without unpickling."""

import csv
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightning_losses.metrics.predictions import SUM_TOLERANCE
from lightning_losses.numerics.probabilities import full_precision

LOGITS = ("logits",)
PROBABILITIES = ("probs", "probabilities")
TARGET = ("target", "targets", "labels", "label", "y")
# numpy.savez's names for arrays without names.
_BY_PLACE = ("arr_0", "arr_1")
# How far from 1 probabilities may add up that were rounded to two digits; logits hardly ever come so near in each row.
_ROUNDED = 0.05
# What pandas calls an index among columns, if it calls it anything.
_INDEX = ("Unnamed: ", "__index_level_")
_LOOKED_FOR = (
    f"looked for {', '.join(LOGITS)} or {', '.join(PROBABILITIES)} [N, C], and for one of {', '.join(TARGET)} [N]"
)


class Labelled(NamedTuple):
    """Logits, [samples, C] or with those of each sample's views [samples, 1 + V, C], and the true classes."""

    logits: Float[Tensor, "samples *views classes"]
    target: Int[Tensor, " samples"]


class LogitsFile(NamedTuple):
    """The contents of a file, and a sentence that says which arrays were used."""

    labelled: Labelled
    taken: str


def read_logits(path: Path) -> Labelled:
    """Logits and targets from a file.

    Args:
        path: see `read_file`.

    Raises:
        ValueError: see `read_file`.
    """
    return read_file(path).labelled


def read_file(path: Path) -> LogitsFile:
    """Logits and targets from a file, and the names of their arrays.

    Args:
        path: ``.npz`` or ``.safetensors`` with arrays "logits" [N, C], or "probs" or "probabilities", whose logarithms
            are used, and "target" [N], or "targets", "labels", "label" or "y". The two arrays of an ``.npz`` without
            names are taken as "logits" and "target". Or ``.csv``, one row per sample; the class is in a column with one
            of these names or, without a header, in the last one. If some columns begin with "logit" or "prob", other
            columns are ignored. Or ``.parquet``, which needs pyarrow, with such columns, or with lists in a column
            named like the array. Logits [N, 1 + V, C] are those of each sample and of its V transformed views, for a
            calibrator that uses them.

    Raises:
        ValueError: no such file, another kind of file, arrays that are missing or do not fit.
        ModuleNotFoundError: a ``.parquet`` file if pyarrow is not installed.
    """
    if not path.is_file():
        raise ValueError(f"calibrate: {path} is no file.")
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        ".npz": _read_npz,
        ".safetensors": load_file,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    if path.suffix not in readers:
        raise ValueError(f"calibrate: {path} ends in {path.suffix!r}; give one of {', '.join(readers)}.")
    try:
        arrays = readers[path.suffix](path)
    except (OSError, SafetensorError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(f"calibrate: {path} can't be read: {str(error).splitlines()[0]}") from None
    scores, target = _first((*LOGITS, *PROBABILITIES), arrays), _first(TARGET, arrays)
    if scores is None and target is None and set(arrays) == set(_BY_PLACE):
        scores, target = _BY_PLACE
    if scores is None or target is None:
        raise ValueError(f"calibrate: {path} has {_described(arrays)}; {_LOOKED_FOR}.")
    labelled = _labelled(path, scores, arrays[scores], target, arrays[target])
    kind = "probabilities" if scores in PROBABILITIES else "logits"
    shape = list(labelled.logits.shape)
    return LogitsFile(labelled, f"{path}: {kind} {scores} {shape}, classes {target} {shape[:1]}.")


def _labelled(path: Path, scores: str, values: Any, target: str, classes: Any) -> Labelled:
    try:
        logits, labels = torch.as_tensor(_native(values)), torch.as_tensor(_native(classes))
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"calibrate: {path} holds values that are not numbers: {str(error).splitlines()[0]}") from None
    if labels.ndim == 1 and logits.ndim > 0 and (logits.ndim == 1 or logits.shape[-1] < 2):
        raise ValueError(
            f"calibrate: {path} holds {scores} {list(logits.shape)}, fewer than two for each sample; give [N, C], of a "
            "score z the logits 0 and z, and of a probability p both 1 - p and p."
        )
    if logits.ndim not in (2, 3) or labels.shape != logits.shape[:1] or not logits.is_floating_point():
        raise ValueError(
            f"calibrate: {path} holds {scores} {list(logits.shape)} of {logits.dtype} and {target} "
            f"{list(labels.shape)}; give floating-point [N, C] (or, with views, [N, 1 + V, C]) and [N]."
        )
    logits, whole = full_precision(logits), labels.long()
    if not torch.equal(whole.to(labels.dtype), labels):
        raise ValueError(f"calibrate: {path} holds values in {target} that are not class indices.")
    if len(logits) == 0:
        return Labelled(logits, whole)
    low, high = (float(end) for end in torch.aminmax(logits))
    apart = float((logits.sum(dim=-1) - 1).abs().max())
    if scores in PROBABILITIES:
        if not (low >= 0 and apart <= SUM_TOLERANCE):
            raise ValueError(
                f"calibrate: {path} holds rows in {scores} that are not distributions over classes: numbers from "
                f"{low:g} to {high:g}, whose sums differ from 1 by up to {apart:.2g}; give numbers of at least 0 with "
                "a sum of 1, not rounded to a few digits, or call unnormalised scores logits."
            )
        # Probabilities that were rounded to 0 become the smallest positive number.
        logits = logits.clamp_min(torch.finfo(logits.dtype).tiny).log()
    elif low >= 0 and apart <= _ROUNDED and len(logits) > 1:
        raise ValueError(
            f"calibrate: {path} holds probabilities in {scores}, since each row adds up to 1; call them "
            f"{PROBABILITIES[0]}."
        )
    return Labelled(logits, whole)


def _native(values: Any) -> Any:
    """An array in this machine's order of bytes, the only one that torch takes; anything else as it is."""
    return values.astype(values.dtype.newbyteorder("="), copy=False) if isinstance(values, np.ndarray) else values


def _first(names: Iterable[str], arrays: dict[str, Any]) -> str | None:
    return next((name for name in names if name in arrays), None)


def _described(arrays: dict[str, Any]) -> str:
    """The names of a file's arrays, with the shapes of those that were read."""
    shapes = {name: getattr(values, "shape", None) for name, values in arrays.items()}
    return ", ".join(name if shape is None else f"{name} {list(shape)}" for name, shape in shapes.items()) or "nothing"


def _read_npz(path: Path) -> dict[str, Any]:
    wanted = {*LOGITS, *PROBABILITIES, *TARGET, *_BY_PLACE}
    with np.load(path, allow_pickle=False) as arrays:
        # Other arrays are not read, but named in an error if these are missing.
        return {name: arrays[name] if name in wanted else None for name in arrays.files}


def _read_csv(path: Path) -> dict[str, Any]:
    # Spreadsheets begin such a file with a mark, which would be a part of the first name.
    with path.open(newline="", encoding="utf-8-sig") as stream:
        first = next(csv.reader(stream), [])
    header = [name.strip() for name in first]
    try:
        [float(name) for name in header]
        names, skip = [*(f"logit_{place}" for place in range(len(header) - 1)), TARGET[0]], 0
    except ValueError:
        names, skip = header, 1
    if _first(TARGET, dict.fromkeys(names)) is None:
        raise ValueError(f"its header {names} has none of {', '.join(TARGET)}")
    wanted = _columns(names)
    places = [names.index(name) for name in wanted]
    table = np.loadtxt(path, delimiter=",", skiprows=skip, ndmin=2, usecols=places, encoding="utf-8-sig")
    return _arrays({name: table[:, place] for place, name in enumerate(wanted)})


def _read_parquet(path: Path) -> dict[str, Any]:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"calibrate: {path}: reading it needs pyarrow: pip install pyarrow.") from None
    names = list(pyarrow.parquet.read_schema(path).names)
    lists = [name for name in names if name in (*LOGITS, *PROBABILITIES)]
    wanted = [*lists[:1], *(name for name in names if name in TARGET)] if lists else _columns(names)
    table = pyarrow.parquet.read_table(path, columns=wanted)
    columns = {name: np.asarray(table[name].to_pylist()) for name in wanted}
    return columns if lists else _arrays(columns)


def _columns(names: list[str]) -> list[str]:
    """The columns to read: those that begin with "logit", or else "prob", or else all others, and the classes."""
    others = [name for name in names if name not in TARGET]
    scores = next(
        (chosen for start in ("logit", "prob") if (chosen := [name for name in others if name.startswith(start)])),
        others,
    )
    chosen = [*scores, *(name for name in names if name in TARGET)]
    if odd := [name for name in chosen if not name or name.startswith(_INDEX) or chosen.count(name) > 1]:
        raise ValueError(
            f"columns {odd} came, with no name, an index's or twice the same; name each class and the target, and "
            "leave other columns out, such as by to_csv(index=False)"
        )
    return chosen


def _arrays(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns of single scores as one array, with the array's name."""
    scores = [name for name in columns if name not in TARGET]
    name = PROBABILITIES[0] if scores and scores[0].startswith("prob") else LOGITS[0]
    joined = {name: np.stack([columns[score] for score in scores], axis=1)} if scores else {}
    return {**joined, **{target: values for target, values in columns.items() if target in TARGET}}
