"""Starts a recipe from a command line: overrides checked first, errors as one message, interruptions resumable."""

import functools
import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from lightning_losses.recipe.check_config import ConfigError
from lightning_losses.recipe.check_overrides import CONFIG_MODULE, check_overrides
from lightning_losses.recipe.python_values import plain_overrides
from lightning_losses.tensors import debug

Task = Callable[[DictConfig, Path], Any]
# What a user's settings can cause; anything else is a fault of the program and keeps its trace.
_EXPECTED = (ValueError, HydraException, OmegaConfBaseException, MisconfigurationException, ModuleNotFoundError)


def launch(task: Task, rehearse: Callable[[DictConfig], None], config_name: str, schema: type) -> None:
    """Run a recipe with the overrides of the command line.

    A wrong name or value ends in one message and exit code 2; Ctrl-C in one that tells how to go on, and 130.
    ``resume=FOLDER`` continues the run of that folder with the overrides it was started with. ``debug=true`` or
    ``HYDRA_FULL_ERROR=1`` show the stack trace as well.

    Args:
        task: takes the composed configuration and the run's folder.
        rehearse: takes the configuration of each job before the first one starts, and raises what would stop it.
        config_name: the primary configuration in ``conf/``.
        schema: a class whose annotations are the types of the configuration's plain top-level values.
    """
    # Its advice and inventories; warnings and errors stay.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        sys.argv[1:] = plain_overrides(_resumed(sys.argv[1:]))
        arguments = get_args_parser().parse_args()
        asks = any((arguments.help, arguments.hydra_help, arguments.cfg, arguments.info, arguments.shell_completion))
        own_config = any((arguments.config_name, arguments.config_path, arguments.config_dir))
        if not asks and not own_config:
            for config in check_overrides(config_name, arguments.overrides, schema, multirun=arguments.multirun):
                rehearse(config)
    except _EXPECTED as error:
        if "debug=true" in sys.argv or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        _fail(error)
    hydra.main(config_path=f"pkg://{CONFIG_MODULE}", config_name=config_name, version_base="1.3")(_guarded(task))()


def _guarded(task: Task) -> Callable[[DictConfig], Any]:
    @functools.wraps(task)
    def guarded(config: DictConfig) -> Any:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            with debug(bool(config.debug)):
                return task(config, folder)
        except KeyboardInterrupt:
            _tell(f"Interrupted. Continue this run by\n  {program()} resume={shlex.quote(_relative(folder))}")
            sys.exit(130)
        except _EXPECTED as error:
            if config.debug or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            _fail(error)

    return guarded


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
    before = [str(line) for line in OmegaConf.load(saved) if not str(line).startswith("resume=")]
    rest = [argument for argument in arguments if not argument.startswith("resume=")]
    return [*before, *rest, f"resume='{folder}'", f"hydra.run.dir='{folder}'"]


def _fail(error: BaseException) -> NoReturn:
    hint = "" if isinstance(error, ConfigError) else "\n(debug=true shows where it was raised.)"
    _tell(f"Error: {_message(error)}{hint}")
    sys.exit(2)


def _message(error: BaseException) -> str:
    where = ""
    if isinstance(error, InstantiationException):
        where = str(error).rpartition("full_key: ")[2].strip() + ": " if "full_key: " in str(error) else ""
        while error.__cause__ is not None:
            error = error.__cause__
    return where + str(error).strip()


def _tell(text: str) -> None:
    # No highlighting, no wrapping: the text holds names and commands to copy.
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(text)


def _relative(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
