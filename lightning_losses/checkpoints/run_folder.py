"""The folder of a run, which is locked until the run ends."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_losses.checkpoints.slurm import queued_again
from lightning_losses.environment.locks import locked

# Until a run that was killed has let go of its folder; for a job that is queued again, on another machine.
_SECONDS, _QUEUED_SECONDS = 5.0, 120.0


@contextmanager
def held(folder: Path, key: str) -> Iterator[None]:
    """Within this context no other run can use a folder.

    Args:
        folder: of the run; it is made.
        key: what names it, for the message.

    Raises:
        ValueError: another run goes on there.
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
    """Make a folder that wasn't there, with a number behind its name where it was."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    names = itertools.chain([folder.name], (f"{folder.name}_{number}" for number in itertools.count(2)))
    for place in map(folder.with_name, names):
        with suppress(FileExistsError):
            place.mkdir()
            return place
    raise AssertionError
