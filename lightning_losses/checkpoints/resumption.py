"""Where a run goes on: the checkpoint in its folder, if the run that left it had the same settings."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.checkpoints.slurm import remove_lightnings_own
from lightning_losses.environment.atomic_files import write_text
from lightning_losses.parallel.sharded_folders import find_again


def begin(folder: Path, identity: dict[str, Any], *, resume: bool) -> Path | None:
    """Begin a training in a folder, or go on there; the checkpoint to go on from, if there is one.

    Args:
        folder: of the training's checkpoints; its name is what errors call the network.
        identity: the plain values that decide what training makes; kept beside the checkpoints, and compared.
        resume: whether to go on from what is there.

    Raises:
        ValueError: the checkpoint to go on from was made by other settings.
    """
    last, kept = folder / "last.ckpt", folder / "identity.json"
    for path in (last, folder / "best.ckpt"):
        find_again(path)
    if not resume or not last.exists():
        if first_process():
            write_text(kept, json.dumps(identity, indent=1, sort_keys=True))
        return None
    if first_process():
        remove_lightnings_own(folder)
    if differing := sorted(_differences(json.loads(kept.read_text()), identity)):
        raise ValueError(
            f"resume: the {folder.name} in {folder} was begun with other settings "
            f"({', '.join(differing)}); resume with the settings of that run, or start a new one."
        )
    return last


def _differences(before: Any, now: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {*before, *now}:
            yield from _differences(before.get(name), now.get(name), f"{prefix}.{name}" if prefix else name)
    elif before != now:
        yield prefix
