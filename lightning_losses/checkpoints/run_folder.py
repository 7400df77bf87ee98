"""Locks the folder of a run until the run ends."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_losses.checkpoints.slurm import queued_again
from lightning_losses.environment.locks import locked

# Time for a killed run to release its folder; the second for a requeued job on another machine.
_SECONDS, _QUEUED_SECONDS = 5.0, 120.0


@contextmanager
def held(folder: Path, key: str) -> Iterator[None]:
    """Within this context no other run can use a folder.

    Args:
        folder: the run's folder, which is created.
        key: the setting that names the folder, for the message.

    Raises:
        ValueError: another run is using the folder.
    """
    try:
        with locked(folder / ".lock", _QUEUED_SECONDS if queued_again() else _SECONDS):
            yield
    except BlockingIOError as error:
        if error.filename != str(folder / ".lock"):
            raise
        raise ValueError(
            f"{key}={folder}: a run is going on in this folder; wait for its end, or give another folder."
        ) from None


def new(folder: Path) -> Path:
    """Make a new folder, with a number after its name if the name exists."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    names = itertools.chain([folder.name], (f"{folder.name}_{number}" for number in itertools.count(2)))
    for place in map(folder.with_name, names):
        with suppress(FileExistsError):
            place.mkdir()
            return place
    raise AssertionError
