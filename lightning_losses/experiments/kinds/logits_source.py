"""Gets the calibrate recipe's logits from files of arrays or a checkpoint, without unpickling."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_losses.calibrators import image_views
from lightning_losses.data.image_data import ImageDataset
from lightning_losses.experiments.config.instantiate import check_targets, instantiate
from lightning_losses.experiments.kinds.logits_file import Labelled, read_file
from lightning_losses.experiments.training.evaluation import predict_logits
from lightning_losses.numerics.checks import check_number
from lightning_losses.teachers import checkpoint_teacher


class Split(NamedTuple):
    """Data for fitting and for evaluation, the name of their source, and which arrays were used."""

    fit: Labelled
    test: Labelled
    name: str
    taken: str = ""


def file_split(path: Path, test: Path | None, *, fit_fraction: float, seed: int) -> Split:
    """Logits for fitting and for evaluation, from two files, or from one file that is split at random by a seed."""
    fit, taken = read_file(path)
    if test is not None:
        other, also = read_file(test)
        if other.logits.shape[1:] != fit.logits.shape[1:]:
            raise ValueError(
                f"calibrate: {path} holds logits {list(fit.logits.shape)} and {test} {list(other.logits.shape)}; give "
                "logits of the same classes."
            )
        return Split(fit, other, path.stem, f"{taken}\n{also}")
    check_number("calibrate", "fit_fraction", fit_fraction, above=0, most=1 - 1e-9)
    count = len(fit.target)
    share = round(fit_fraction * count)
    if not 0 < share < count:
        raise ValueError(f"calibrate: fit_fraction={fit_fraction} of {count} rows leaves none to fit or to evaluate.")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    parts = [Labelled(*(tensor[rows] for tensor in fit)) for rows in (order[:share], order[share:])]
    return Split(parts[0], parts[1], path.stem, taken)


def checkpoint_split(path: Path, views: Sequence[str] = ()) -> Split:
    """A trained network's logits on its validation and test data, with the settings saved beside its checkpoint.

    With `views` the logits are those of each image and of its transformed views.
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
    """Raise ``ValueError`` unless a checkpoint and its settings exist."""
    identity = path.parent / "identity.json"
    if not path.is_file() or not identity.is_file():
        raise ValueError(
            f"calibrate: {path} is no checkpoint of a run; give RUN/checkpoints/NETWORK/last.ckpt, which "
            f"has its settings, identity.json, beside it; {_there(path)}."
        )
    _settings(identity)


def _there(path: Path) -> str:
    """The contents of a folder, for an error about a missing file."""
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
    """The settings saved beside a checkpoint; only objects that a configuration may build are built."""
    try:
        settings: dict[str, Any] = json.loads(identity.read_text())
        check_targets({"data": settings["data"], "network": settings["module"]["network"]})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"calibrate: {identity} is not what a run leaves beside its checkpoint: {error}") from None
    return settings
