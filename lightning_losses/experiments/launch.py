"""Starts a recipe from a command line: overrides checked first, errors as one message, interruptions resumable."""

import argparse
import errno
import functools
import logging
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.check_overrides import (
    CONFIG_MODULE,
    allowed_targets,
    check_hydra,
    check_overrides,
)
from lightning_losses.experiments.config.instantiate import allowing
from lightning_losses.experiments.config.python_values import plain_overrides
from lightning_losses.experiments.training.processes import check_trainer, first_process, queued_again
from lightning_losses.numerics.checks import debug

Task = Callable[[DictConfig, Path], Any]
# What a user's settings can cause; anything else is a fault of the program and keeps its trace.
_EXPECTED = (ValueError, HydraException, OmegaConfBaseException, MisconfigurationException, ModuleNotFoundError)
# What torch prints of a network: a line for each layer, where a message has room for its name.
_NETWORK = re.compile(r"\(\n(?:[ \t]+[^\n]*\n)+\)")
# What a disk or a folder refuses; any other OSError is a fault of the program.
_REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
)


class Terminated(KeyboardInterrupt):
    """SIGTERM: it interrupts a run as Ctrl-C does, and ends in another exit code."""


def launch(task: Task, rehearse: Callable[[DictConfig], None], config_name: str, schema: type) -> None:
    """Run a recipe with the overrides of the command line.

    A wrong name or value, a full disk or a folder that can't be written to end in one message and exit code 2; Ctrl-C
    and SIGTERM in one that tells how to go on, and 130 or 143. ``resume=FOLDER`` continues the run of that folder with
    the overrides it was started with. ``debug=true`` or ``HYDRA_FULL_ERROR=1`` show the stack trace as well. What a
    configuration may build is limited (`lightning_losses.experiments.config.instantiate`); ``allowed_targets=[...]`` on
    the command line, and nowhere else, adds to it.

    Args:
        task: takes the composed configuration and the run's folder.
        rehearse: takes the configuration of each job before the first one starts, and raises what would stop it.
        config_name: the primary configuration in ``conf/``.
        schema: a class whose annotations are the types of the configuration's plain top-level values.
    """
    # Its advice and inventories; warnings and errors stay.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # That it ends processes that are ending anyway.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    try:
        sys.argv[1:] = plain_overrides(_resumed(sys.argv[1:]))
        arguments = get_args_parser().parse_args()
        config_name, allowed = prepare(arguments, config_name, schema, rehearse)
    except KeyboardInterrupt as error:
        _tell("Interrupted; nothing was trained yet.")
        sys.exit(_code(error))
    except Exception as error:  # Nothing has run: whatever it is, these settings made it.
        if "debug=true" in sys.argv or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        _fail(error)
    run = hydra.main(config_path=f"pkg://{CONFIG_MODULE}", config_name=config_name, version_base="1.3")
    run(_guarded(task, allowed))()


def prepare(
    arguments: argparse.Namespace, config_name: str, schema: type, rehearse: Callable[[DictConfig], None]
) -> tuple[str, list[str]]:
    """Check a command line and rehearse its jobs; the configuration's name, and what it may build besides.

    Raises:
        ValueError: settings that can't be run, or any other error that a rehearsal meets.
    """
    if arguments.config_path is not None:
        raise ConfigError(
            f"--config-path {arguments.config_path}: the recipe's parts are in its own configurations; "
            "--config-dir adds a folder of yours."
        )
    config_name = arguments.config_name or config_name
    allowed = allowed_targets(arguments.overrides)
    if any((arguments.help, arguments.hydra_help, arguments.cfg, arguments.info, arguments.shell_completion)):
        check_hydra(config_name, arguments.overrides, config_dir=arguments.config_dir)
        return config_name, allowed
    configs = check_overrides(
        config_name, arguments.overrides, schema, multirun=arguments.multirun, config_dir=arguments.config_dir
    )
    with allowing(allowed), _terminable():
        launched = any(line.startswith("hydra/launcher=submitit") for line in arguments.overrides)
        for config in configs:
            if config.get("trainer"):
                check_trainer(config.trainer, sweeping=arguments.multirun and not launched)
            _check_writable(Path(config.get("resume") or config.output).expanduser().absolute())
            rehearse(config)
    return config_name, allowed


def _guarded(task: Task, allowed: Sequence[str] = ()) -> Callable[[DictConfig], Any]:
    @functools.wraps(task)
    def guarded(config: DictConfig) -> Any:
        folder = Path(HydraConfig.get().runtime.output_dir)
        go_on = f"{program()} resume={shlex.quote(_relative(folder))}"
        if allowed:
            # Not read from the run's folder, which may have come from elsewhere.
            go_on += " " + shlex.quote(f"allowed_targets=[{','.join(allowed)}]")
        if queued_again() and "resume" in config and (folder / "checkpoints").is_dir():
            # A job that SLURM has queued again goes on in its folder.
            config.resume = str(folder)
        try:
            with debug(bool(config.debug)), allowing(allowed), _terminable():
                return task(config, folder)
        except (KeyboardInterrupt, SystemExit) as error:
            # Lightning leaves after an interruption, with the interruption as context.
            interrupt = error if isinstance(error, KeyboardInterrupt) else error.__context__
            if not isinstance(interrupt, KeyboardInterrupt):
                raise
            if first_process():
                _tell(f"Interrupted. Continue this run by\n  {go_on}")
            sys.exit(_code(interrupt))
        except (*_EXPECTED, OSError) as error:
            if config.debug or os.environ.get("HYDRA_FULL_ERROR") == "1" or not _expected(error):
                raise
            if _refused(error) and not first_process():
                # The first one says it: all processes learn what a checkpoint met.
                sys.exit(2)
            _fail(error, f"\nWhen that is mended, continue this run by\n  {go_on}" if _refused(error) else "")

    return guarded


@contextmanager
def _terminable() -> Iterator[None]:
    """Within this context SIGTERM interrupts as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _code(interrupt: KeyboardInterrupt) -> int:
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


def _check_writable(folder: Path) -> None:
    """Raise `ConfigError` before anything was done if a folder, or the one to make it in, can't be written to."""
    there = folder
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(4096))
            probe.flush()
    except OSError as error:
        raise ConfigError(f"{there} can't be written: {error.strerror}.") from None


def _refused(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _REFUSALS


def _expected(error: BaseException) -> bool:
    return not isinstance(error, OSError) or _refused(error)


def overrides() -> list[str]:
    """The overrides of the command line, without Hydra's own; within a job, the job's."""
    if HydraConfig.initialized():
        return [str(line) for line in HydraConfig.get().overrides.task]
    return [line for line in get_args_parser().parse_args().overrides if not line.lstrip("+~").startswith("hydra")]


def program() -> str:
    """How this program was started, without its arguments."""
    started = sys.argv[0]
    return f"python {shlex.quote(_relative(Path(started)))}" if started.endswith(".py") else started


def command() -> str:
    """What starts this run again, as it was started; without Hydra's overrides, which say where a run goes."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return " ".join([program(), *(shlex.quote(line) for line in overrides if not line.startswith("resume="))])


def _resumed(arguments: list[str]) -> list[str]:
    """With ``resume=FOLDER``, the overrides of that run before the given ones, and its folder as this run's."""
    given = [argument for argument in arguments if argument.startswith("resume=")]
    if not given or given[-1] in ("resume=", "resume=null"):
        return arguments
    folder = Path(given[-1].removeprefix("resume=").strip("'\"")).expanduser()
    saved = folder / ".hydra" / "overrides.yaml"
    if not saved.is_file():
        raise ConfigError(
            f"{given[-1]}: there is no run in that folder; give the folder of an interrupted run, "
            "the one that holds .hydra/."
        )
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError(f"{given[-1]}: one run is resumed at a time; leave out -m (--multirun).")
    # What a run may build is said anew, since a folder may have come from elsewhere.
    left_out = ("resume=", "allowed_targets=")
    before = [str(line) for line in OmegaConf.load(saved) if not str(line).startswith(left_out)]
    rest = [argument for argument in arguments if not argument.startswith("resume=")]
    return [*before, *rest, f"resume='{folder}'", f"hydra.run.dir='{folder}'"]


def _fail(error: BaseException, advice: str = "") -> NoReturn:
    hint = "" if isinstance(error, ConfigError) or _refused(error) else "\n(debug=true shows where it was raised.)"
    _tell(f"Error: {message(error)}{hint}{advice}")
    sys.exit(2)


def message(error: BaseException) -> str:
    """An error as a user reads it: what was given, and what would work."""
    if isinstance(error, OSError) and _refused(error):
        return f"{error.filename or 'a file'} can't be written: {error.strerror}."
    where = ""
    if isinstance(error, InstantiationException):
        where = str(error).rpartition("full_key: ")[2].strip() + ": " if "full_key: " in str(error) else ""
        while error.__cause__ is not None:
            error = error.__cause__
    lines = _NETWORK.sub("(...)", str(error)).strip().splitlines() or ["no reason was given"]
    if isinstance(error, OmegaConfBaseException):
        # The lines below are about OmegaConf's own objects.
        lines = lines[:1]
    elif not isinstance(error, _EXPECTED):
        # Out of a library: its first line, with what kind of error it is.
        lines = [f"these settings can't be run ({type(error).__name__}: {lines[0]})"]
    return where + "\n".join(lines)


def _tell(text: str) -> None:
    # No highlighting, no wrapping: the text holds names and commands to copy.
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(text)


def _relative(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
