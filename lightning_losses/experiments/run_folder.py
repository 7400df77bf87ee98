"""The folder of a run: no other run's, and held until the run ends."""

import itertools
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.checkpoints.slurm import queued_again
from lightning_losses.environment.locks import locked
from lightning_losses.experiments.config.check_config import ConfigError, check_writable
from lightning_losses.experiments.config.check_overrides import folder_setting

# Until a run that was killed has let go of its folder; for a job that is queued again, on another machine.
_SECONDS, _QUEUED_SECONDS = 5.0, 120.0


@contextmanager
def run_folder(arguments: Namespace, config_name: str) -> Iterator[None]:
    """Hold the folder of a run, or of a sweep (``-m``), while it runs.

    A folder that is named by the time is made here, and made sure to be new: of two runs that start in the same second,
    the second one's has a number behind the time. What Hydra is told of it is added to the arguments. Further processes
    of a run hold nothing, and leave Hydra's own files to the first one.

    Args:
        arguments: parsed; their overrides have been checked.
        config_name: the primary configuration.

    Raises:
        ConfigError: another run goes on in the folder, or it can't be written to.
    """
    if not first_process():
        arguments.overrides.append("hydra.output_subdir=null")
        yield
        return
    key = "hydra.sweep.dir" if arguments.multirun else "hydra.run.dir"
    setting = folder_setting(key, config_name, arguments.overrides, config_dir=arguments.config_dir)
    folder = setting.path.expanduser()
    check_writable(key, folder)
    if setting.by_time:
        folder = _new(folder)
        arguments.overrides.append(f"{key}='{_escaped(folder)}'")
    try:
        with locked(folder / ".lock", _QUEUED_SECONDS if queued_again() else _SECONDS):
            yield
    except BlockingIOError as error:
        if error.filename != str(folder / ".lock"):
            raise
        raise ConfigError(
            f"{key}={folder}: a run is going on in this folder; wait for its end, or give another folder."
        ) from None


def _new(folder: Path) -> Path:
    """Make a folder that wasn't there, with a number behind its name where it was."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    names = itertools.chain([folder.name], (f"{folder.name}_{number}" for number in itertools.count(2)))
    for place in map(folder.with_name, names):
        with suppress(FileExistsError):
            place.mkdir()
            return place
    raise AssertionError


def _escaped(folder: Path) -> str:
    return str(folder).replace("\\", "\\\\").replace("'", "\\'")
