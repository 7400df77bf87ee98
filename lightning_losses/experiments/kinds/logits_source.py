"""Where the calibrate recipe's logits come from: files of arrays, or a checkpoint; nothing is unpickled."""

import csv
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_losses.calibrators import image_views
from lightning_losses.data.image_data import ImageDataset
from lightning_losses.experiments.config.instantiate import check_targets, instantiate
from lightning_losses.experiments.training.evaluation import predict_logits
from lightning_losses.numerics.checks import check_number
from lightning_losses.teachers import checkpoint_teacher


class Labelled(NamedTuple):
    """Logits, [samples, C] or with those of each sample's views [samples, 1 + V, C], and the classes that came true."""

    logits: Float[Tensor, "samples *views classes"]
    target: Int[Tensor, " samples"]


class Split(NamedTuple):
    """What to fit on and what to evaluate on, and a name for where they are from."""

    fit: Labelled
    test: Labelled
    name: str


def read_logits(path: Path) -> Labelled:
    """Logits and targets from a file.

    Args:
        path: ``.npz`` or ``.safetensors`` with arrays "logits" [N, C] and "target" [N]; or ``.csv``, a row a sample,
            whose class is in the column named "target" or, without a header, in the last one. Logits [N, 1 + V, C] are
            those of each sample and of its V transformed views, for a calibrator that takes them.

    Raises:
        ValueError: no such file, another kind of file, arrays that are missing or do not fit.
    """
    if not path.is_file():
        raise ValueError(f"calibrate: {path} is no file.")
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        ".npz": _read_npz,
        ".safetensors": load_file,
        ".csv": _read_csv,
    }
    if path.suffix not in readers:
        raise ValueError(f"calibrate: {path} ends in {path.suffix!r}; give one of {', '.join(readers)}.")
    try:
        arrays: dict[str, Any] = readers[path.suffix](path)
    except (OSError, SafetensorError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(f"calibrate: {path} can't be read: {str(error).splitlines()[0]}") from None
    if missing := {"logits", "target"} - set(arrays):
        raise ValueError(f"calibrate: {path} has no {' and no '.join(sorted(missing))}; it has {sorted(arrays)}.")
    try:
        logits, target = torch.as_tensor(arrays["logits"]), torch.as_tensor(arrays["target"])
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"calibrate: {path} holds what are no numbers: {str(error).splitlines()[0]}") from None
    if logits.ndim not in (2, 3) or target.shape != logits.shape[:1] or not logits.is_floating_point():
        raise ValueError(
            f"calibrate: {path} holds logits {list(logits.shape)} of {logits.dtype} and a target "
            f"{list(target.shape)}; give floating-point [N, C] (or, with views, [N, 1 + V, C]) and [N]."
        )
    whole = target.long()
    if not torch.equal(whole.to(target.dtype), target):
        raise ValueError(f"calibrate: {path} holds targets that are no class indices.")
    return Labelled(logits, whole)


def file_split(path: Path, test: Path | None, *, fit_fraction: float, seed: int) -> Split:
    """Logits to fit on and to evaluate on, from two files, or from one that is divided by a seed."""
    fit = read_logits(path)
    if test is not None:
        other = read_logits(test)
        if other.logits.shape[1:] != fit.logits.shape[1:]:
            raise ValueError(
                f"calibrate: {path} holds logits {list(fit.logits.shape)} and {test} {list(other.logits.shape)}; give "
                "logits of the same classes."
            )
        return Split(fit, other, path.stem)
    check_number("calibrate", "fit_fraction", fit_fraction, above=0, most=1 - 1e-9)
    count = len(fit.target)
    share = round(fit_fraction * count)
    if not 0 < share < count:
        raise ValueError(f"calibrate: fit_fraction={fit_fraction} of {count} rows leaves none to fit or to evaluate.")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    parts = [Labelled(*(tensor[rows] for tensor in fit)) for rows in (order[:share], order[share:])]
    return Split(parts[0], parts[1], path.stem)


def checkpoint_split(path: Path, views: Sequence[str] = ()) -> Split:
    """A trained network's logits of its validation and its test data, by the settings that the run left beside it.

    With `views` they are those of each image and of its transformed views.
    """
    check_checkpoint(path)
    settings = _settings(path.parent / "identity.json")
    data = instantiate(settings["data"])
    data.prepare_data()
    data.setup()
    network = checkpoint_teacher(path, instantiate(settings["module"]["network"]))
    fit, test = (Labelled(_predicted(network, part, views), part.target) for part in (data.val, data.test))
    return Split(fit, test, f"{path.parent.name} on {data.name}")


def check_checkpoint(path: Path) -> None:
    """Raise ``ValueError`` unless a checkpoint is there, and what it needs beside it."""
    identity = path.parent / "identity.json"
    if not path.is_file() or not identity.is_file():
        raise ValueError(
            f"calibrate: {path} is no checkpoint of a run; give RUN/checkpoints/NETWORK/last.ckpt, which "
            f"has its settings, identity.json, beside it; {_there(path)}."
        )
    _settings(identity)


def _there(path: Path) -> str:
    """What a folder has in place of a file."""
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    return f"{folder} has {', '.join(sorted(file.name for file in folder.iterdir())) or 'nothing'}"


def _predicted(network: nn.Module, part: ImageDataset, views: Sequence[str]) -> Tensor:
    logits = predict_logits(network, part)
    if not views:
        return logits
    others = (ImageDataset(view, part.target) for view in image_views(part.inputs, views))
    return torch.stack([logits, *(predict_logits(network, other) for other in others)], dim=-2)


def _settings(identity: Path) -> dict[str, Any]:
    """What the run left beside its checkpoint; only what a configuration may build is built of it."""
    try:
        settings: dict[str, Any] = json.loads(identity.read_text())
        check_targets({"data": settings["data"], "network": settings["module"]["network"]})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"calibrate: {identity} is not what a run leaves beside its checkpoint: {error}") from None
    return settings


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        # Others are named, in case these are missing, and not read.
        return {name: arrays[name] if name in ("logits", "target") else None for name in arrays.files}


def _read_csv(path: Path) -> dict[str, Any]:
    with path.open(newline="") as stream:
        first = next(csv.reader(stream), [])
    header = [name.strip() for name in first]
    try:
        [float(name) for name in header]
        names, skip = [*map(str, range(len(header) - 1)), "target"], 0
    except ValueError:
        names, skip = header, 1
    if "target" not in names:
        raise ValueError(f"its header {names} names no target")
    table = np.loadtxt(path, delimiter=",", skiprows=skip, ndmin=2)
    place = names.index("target")
    return {"logits": np.delete(table, place, axis=1), "target": table[:, place]}
