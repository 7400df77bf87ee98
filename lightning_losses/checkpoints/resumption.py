"""Finds the checkpoint from which a run continues, if the run that wrote it had the same settings."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints
from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.checkpoints.slurm import remove_lightnings_own
from lightning_losses.environment.atomic_files import write_text
from lightning_losses.parallel.sharded_folders import check_folder, find_again, previous_name, shapes_in

# Optimizer states with the shape of their parameter; other optimizers factor them, or keep more.
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg")

# State of Lightning's ModelCheckpoint: files that it removes when better ones come.
_REMEMBERED = ("best_k_models", "best_model_path", "kth_best_model_path", "last_model_path")

# Parts of the identity that are no settings, with their names in errors.
_VERSIONS = {
    "versions.lightning_losses": "lightning-losses",
    "versions.source": "the library's code",
    "versions.torch": "torch",
}


def begin(folder: Path, identity: dict[str, Any], *, resume: bool) -> Path | None:
    """Begin or continue a training in a folder; returns the checkpoint to continue from, if there is one.

    Args:
        folder: the folder of the training's checkpoints; errors use its name for the network.
        identity: the plain values that decide the result of training; they are kept beside the checkpoints and
            compared.
        resume: whether to continue from an existing checkpoint.

    Raises:
        ValueError: the checkpoint was made with other settings, or its settings are unknown.
    """
    last, kept = folder / "last.ckpt", folder / "identity.json"
    if resume and _left_by(folder):
        _check_identity(folder, identity)
    for path in (last, folder / "best.ckpt"):
        find_again(path)
    if not resume or not last.exists():
        if first_process():
            write_text(kept, json.dumps(identity, indent=1, sort_keys=True))
        return None
    if first_process():
        remove_lightnings_own(folder)
    return last


def check_resumption(folder: Path, identity: dict[str, Any], network: nn.Module) -> None:
    """Raise, without changes, if a training can't continue from its folder; an empty folder is a beginning.

    Args:
        folder: the folder of the training's checkpoints.
        identity: see `begin`.
        network: the network to train, as built.

    Raises:
        ValueError: settings that differ or can't be read; a checkpoint that is damaged or belongs to another network.
            The message names the file and the last good state.
    """
    last = _left_by(folder)
    if last is None:
        return
    _check_identity(folder, identity)
    best = folder / "best.ckpt"
    had_best = False
    for path in (last, best):
        try:
            if path == best and not best.exists():
                if had_best:
                    raise ValueError(f"checkpoint: {best} is missing, and {last} tells that there was one.")
                continue
            content = _shapes(path)
            _check_form(path, content)
            _check_fits(path, content["state_dict"], network.state_dict())
            if path == last:
                _check_moments(path, content, network)
                states = content.get("callbacks", {}).values()
                had_best = any(isinstance(state, dict) and state.get("best") is not None for state in states)
        except ValueError as error:
            raise ValueError(f"resume: {error} {_remedy(last) if path == last else _remedy_of_best(last)}") from None


def _shapes(path: Path) -> dict[str, Any]:
    """A checkpoint, one file or shards, with shapes only; the digest covers the contents of its tensors."""
    if path.is_dir():
        check_folder(path)
        return shapes_in(path)
    return AtomicCheckpoints().load_checkpoint(path, map_location="meta")


def _left_by(folder: Path) -> Path | None:
    """The checkpoint of a training, under its name or its temporary name during replacement."""
    last = folder / "last.ckpt"
    return next((path for path in (last, previous_name(last)) if path.exists()), None)


def _check_identity(folder: Path, identity: dict[str, Any]) -> None:
    kept = folder / "identity.json"
    try:
        if kept.exists() and not kept.is_file():
            # Reading a pipe would block forever.
            raise ValueError("it is no plain file")
        before = json.loads(kept.read_text())
        if not isinstance(before, dict):
            raise ValueError("it is no table of settings")
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(
            f"resume: {kept}, which holds the settings of the {folder.name}, can't be read ({why}). Put it back from a "
            f"copy; the last good state is {folder / 'last.ckpt'}."
        ) from None
    now = json.loads(json.dumps(identity))
    differing = sorted(_differences(before, now))
    # Different settings also mean different code, because they choose the objects to build.
    changed = [name for name in differing if name in _VERSIONS]
    if differing and differing == changed:
        raise ValueError(
            f"resume: the {folder.name} in {folder} was begun by another version of {_versions(changed, before, now)}, "
            "and its result would be that of neither version; continue with the version that began it, or start a new "
            "run."
        )
    if differing := [name for name in differing if name not in changed]:
        raise ValueError(
            f"resume: the {folder.name} in {folder} was begun with other settings "
            f"({', '.join(differing)}); resume with the settings of that run, or start a new one."
        )


def _versions(changed: list[str], before: dict[str, Any], now: dict[str, Any]) -> str:
    """The changed versions, old and new; for code the hash is left out."""
    told = []
    for name in changed:
        key = name.removeprefix("versions.")
        then, new = (
            values["versions"].get(key) if isinstance(values.get("versions"), dict) else None
            for values in (before, now)
        )
        told.append(_VERSIONS[name] + ("" if key == "source" else f" ({then} then, {new} now)"))
    return " and of ".join(told)


def _check_form(path: Path, content: Any) -> None:
    """Raise unless a checkpoint has the form that Lightning reads."""
    wrong = _wrong_part(content)
    if wrong is not None:
        raise ValueError(f"checkpoint: {path} is no checkpoint of a training: {wrong}.")


def _wrong_part(content: Any) -> str | None:
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__} in place of a table"
    for name, kind in (("state_dict", dict), ("loops", dict), ("optimizer_states", list), ("lr_schedulers", list)):
        if not isinstance(content.get(name), kind):
            there = f"is a {type(content[name]).__name__}" if name in content else "is missing"
            return f"its {name} {there}, and a {'table' if kind is dict else 'list'} was expected"
    for name in ("epoch", "global_step"):
        number = content.get(name)
        if type(number) is not int or number < 0:
            return f"its {name} is {number!r}, and a whole number was expected"
    for name, value in content["state_dict"].items():
        if not isinstance(value, Tensor):
            return f"{name} in its state_dict is a {type(value).__name__}, and a tensor was expected"
    if not isinstance(content.get("callbacks", {}), dict):
        return f"its callbacks is a {type(content['callbacks']).__name__}, and a table was expected"
    for state in content.get("callbacks", {}).values():
        for place in _remembered(state):
            if ".." in Path(place).parts or "://" in place or "::" in place:
                return f"a callback would remove {place}, and a plain path without '..' was expected"
    if not isinstance(content["loops"].get("fit_loop"), dict):
        return "its loops have no table of the fit_loop"
    for name in ("optimizer_states", "lr_schedulers"):
        if not all(isinstance(state, dict) for state in content[name]):
            return f"its {name} are no tables"
    for state in content["optimizer_states"]:
        if not isinstance(state.get("state"), dict) or not isinstance(state.get("param_groups"), list):
            return "its optimizer_states have no state and param_groups"
        if not all(isinstance(moments, dict) for moments in state["state"].values()):
            return "its optimizer_states have parameters without a table"
    return None


def _remembered(state: Any) -> Iterator[str]:
    """The files in a callback's state."""
    for name in _REMEMBERED if isinstance(state, dict) else ():
        value = state.get(name)
        yield from map(str, value) if isinstance(value, dict) else [str(value)]


def _check_moments(path: Path, content: Mapping[str, Any], network: nn.Module) -> None:
    """Raise for moments that fit no parameter of the network; an optimizer would load them unchecked."""
    shapes = {tuple(value.shape) for value in network.state_dict().values() if not is_lazy(value)}
    for optimizer in content["optimizer_states"]:
        for number, state in optimizer["state"].items():
            for name in _MOMENTS:
                moment = state.get(name)
                if isinstance(moment, Tensor) and moment.dim() and tuple(moment.shape) not in shapes:
                    raise ValueError(
                        f"checkpoint: {path} holds another optimizer's state: {name} of its parameter {number} is "
                        f"{list(moment.shape)}, and no parameter here is."
                    )


def _check_fits(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    shapes, wanted = (
        {name: list(value.shape) if not is_lazy(value) else [] for name, value in tensors.items()}
        for tensors in (state, own)
    )
    for name in sorted({*shapes, *wanted}):
        # A lazy layer has no shape yet.
        lazy = name in shapes and name in own and is_lazy(own[name])
        if shapes.get(name) != wanted.get(name) and not lazy:
            there, here = (table.get(name, "missing") for table in (shapes, wanted))
            raise ValueError(f"checkpoint: {path} holds another network: its {name} is {there}, and here {here}.")


def _remedy(last: Path) -> str:
    best = last.with_name("best.ckpt")
    anew = f"remove {last.name} to train the {last.parent.name} anew"
    try:
        _shapes(best)
    except (OSError, ValueError):
        return f"There is no other state of it; put it back from a copy, or {anew}."
    return f"The last good state is {best}; put last.ckpt back from a copy, or {anew}."


def _remedy_of_best(last: Path) -> str:
    anew = f"remove both to train the {last.parent.name} anew"
    return f"The last good state is {last}; put best.ckpt back from a copy, or {anew}."


def _differences(before: Any, now: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {*before, *now}:
            yield from _differences(before.get(name), now.get(name), f"{prefix}.{name}" if prefix else name)
    elif before != now:
        yield prefix
