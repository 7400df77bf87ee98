"""Starts an experiment from a command line: checked, rehearsed and resumable, with each error as one message.

torch and Lightning are imported only where they are needed, so that help and lists of choices appear at once.
"""

import argparse
import inspect
import logging
import os
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, ClassVar

from hydra import version
from hydra._internal.utils import _run_hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_losses.experiments.config.check_overrides import (
    CONFIG_MODULE,
    allowed_targets,
    check_hydra,
    check_overrides,
    check_own_folder,
    folder_setting,
    parse_options,
    plain_overrides,
    saved_overrides,
    to_repeat,
)
from lightning_losses.experiments.config.instantiate import ConfigError, allowing, check_place, find_target, instantiate
from lightning_losses.experiments.config.settings import SETTINGS
from lightning_losses.experiments.help_page import help_page, version_line
from lightning_losses.experiments.messages import expected, fail, killed, refused, tell


class Experiment(ABC):
    """A kind of experiment, which makes results from a configuration; ``experiment._target_`` names its class.

    Args:
        config: composed.
        program: how it was started, without arguments, such as "python recipes/train.py".
        overrides: of the command line, without Hydra's own.

    Attributes:
        no_sweep: why it can't be a job of a sweep (``-m``); empty if it can.
    """

    no_sweep: ClassVar[str] = ""

    def __init__(self, config: DictConfig, program: str = "", overrides: Sequence[str] = ()) -> None:
        self.config = config
        self.program = program
        self.overrides = list(overrides)

    @property
    def command(self) -> str:
        """The command that starts this run again."""
        return " ".join(
            [self.program, *(shlex.quote(line) for line in self.overrides if not line.startswith("resume="))]
        )

    @property
    def resumed(self) -> Path | None:
        """The folder of checkpoints from which the run continues, if it does."""
        folder = self.config.get("resume")
        return None if folder is None else Path(folder) / "checkpoints"

    @abstractmethod
    def rehearse(self) -> None:
        """Take one step of every training, so that errors appear before anything is trained."""

    def run(self, folder: Path) -> Any:
        """Make the results, on the threads that the configuration gives, and write the report into the run's folder."""
        if self.config.threads is not None:
            import torch

            torch.set_num_threads(self.config.threads)
        fix_workspaces(self.config)
        return self.perform(folder)

    @abstractmethod
    def perform(self, folder: Path) -> Any:
        """The work of `run`, after the number of threads is set."""


def fix_workspaces(config: DictConfig) -> None:
    """Have cuBLAS compute the same bits each time, if the configuration is deterministic: it reads this at its start.

    Raises:
        ConfigError: CUDA has started otherwise in this process.
    """
    if not config.get("deterministic"):
        return
    import torch

    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if started and "CUBLAS_WORKSPACE_CONFIG" not in os.environ:
        raise ConfigError(
            "deterministic=true: CUDA has started in this process by another setting; set "
            "CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment, or start the run by its own command."
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def experiment_of(config: DictConfig, program: str = "", overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that a configuration names.

    Raises:
        ConfigError: it names none, or another class.
    """
    node = config.get("experiment")
    name = node.get("_target_") if isinstance(node, DictConfig) else node
    found = find_target(name, "experiment")
    if not (inspect.isclass(found) and issubclass(found, Experiment) and not inspect.isabstract(found)):
        raise ConfigError(
            f"experiment._target_={name}: it is no experiment; give a class such as "
            "lightning_losses.experiments.kinds.classification.ImageClassification."
        )
    experiment: Experiment = instantiate(node, _partial_=True)(config, program, overrides)
    return experiment


def launch(recipe: str, arguments: Sequence[str] | None = None, program: str | None = None) -> None:
    """Run the experiment that a recipe's configuration names, with the overrides of the command line.

    A wrong name or value, a full disk or a folder without write permission gives one message and exit code 2. Ctrl-C
    and SIGTERM give a message with the command that continues the run, and exit code 130 or 143. ``resume=FOLDER``
    continues the run of that folder with its original overrides. ``debug=true`` or ``HYDRA_FULL_ERROR=1`` show the
    stack trace as well. A configuration may only build listed names
    (`lightning_losses.experiments.config.instantiate`); only ``allowed_targets=[...]`` on the command line adds to
    them. The folder of a run is treated as data: it can't add to this list, and it can't name paths outside itself
    unless the command line names them too.

    Args:
        recipe: the primary configuration in ``conf/``: train, compare or calibrate.
        arguments: overrides and Hydra's options; None takes the process's.
        program: the command that starts the recipe, without arguments; None takes the process's script.
    """
    # Its advice and inventories; warnings and errors stay.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # That it ends processes that are ending anyway.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = program or script()
    with ExitStack() as held:
        try:
            words = _resumed(plain_overrides(words))
            if "--version" in words:
                print(version_line())
                return
            parser, parsed = parse_options(words)
            if parsed.help:
                print(help_page(recipe, parsed, program))
                return
            allowed = prepare(parsed, recipe, program)
            if not _shows(parsed):
                held.enter_context(hold_folder(parsed, parsed.config_name or recipe))
        except KeyboardInterrupt as error:
            from lightning_losses.checkpoints.interruption import exit_code

            tell("Interrupted; nothing was trained yet.")
            sys.exit(exit_code(error))
        except Exception as error:  # Nothing has run: whatever it is, these settings made it.
            if "debug=true" in words or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            fail(error)
        options = {"--config-name": parsed.config_name, "--config-dir": parsed.config_dir}
        given = [f"{name}={value}" for name, value in options.items() if value]
        task = _shown if _shows(parsed) else _guarded(program, given, allowed)
        # Hydra names the job by it.
        task.__module__ = f"lightning_losses.recipes.{recipe}"
        version.setbase("1.3")
        # hydra.main would read the process's arguments.
        _run_hydra(parsed, parser, task, config_path=f"pkg://{CONFIG_MODULE}", config_name=recipe)


def hold_folder(arguments: argparse.Namespace, config_name: str) -> AbstractContextManager[None]:
    """Hold the folder of a run, or of a sweep (``-m``), while it runs.

    A folder named by the time is made here and is always new: if two runs start in the same second, the second folder
    gets a number after the time. The folder is added to Hydra's arguments. Further processes of a run hold nothing, and
    leave Hydra's own files to the first one.

    Args:
        arguments: parsed; their overrides have been checked.
        config_name: the primary configuration.

    Raises:
        ValueError: another run is using the folder, or it can't be written to.
    """
    from lightning_losses.checkpoints import run_folder
    from lightning_losses.checkpoints.process_states import first_process
    from lightning_losses.experiments.config.check_config import check_writable

    if not first_process():
        arguments.overrides.append("hydra.output_subdir=null")
        return nullcontext()
    key = "hydra.sweep.dir" if arguments.multirun else "hydra.run.dir"
    setting = folder_setting(key, config_name, arguments.overrides, config_dir=arguments.config_dir)
    folder = check_writable(key, setting.place)
    if setting.by_time:
        folder = run_folder.new(folder)
        escaped = str(folder).replace("\\", "\\\\").replace("'", "\\'")
        arguments.overrides.append(f"{key}='{escaped}'")
    return run_folder.held(folder, key)


def _shows(arguments: argparse.Namespace) -> bool:
    """Whether a command line only asks for information, and runs nothing."""
    asked = (arguments.hydra_help, arguments.cfg, arguments.info, arguments.shell_completion)
    return any(asked)


def prepare(arguments: argparse.Namespace, recipe: str, program: str = "") -> list[str]:
    """Check a command line and rehearse its jobs; returns the further names that their configurations may build.

    Raises:
        ValueError: settings that can't be run, or any other error that a rehearsal meets.
    """
    if arguments.config_path is not None:
        raise ConfigError(
            f"--config-path {arguments.config_path}: the recipe's parts are in its own configurations; "
            "--config-dir adds a folder of yours."
        )
    if arguments.experimental_rerun is not None:
        raise ConfigError(
            f"--experimental-rerun {arguments.experimental_rerun}: the file would be unpickled; start the run by its "
            "overrides."
        )
    config_name = arguments.config_name or recipe
    allowed = allowed_targets(arguments.overrides)
    if _shows(arguments):
        check_hydra(config_name, arguments.overrides, config_dir=arguments.config_dir)
        return allowed
    configs = check_overrides(
        config_name,
        arguments.overrides,
        SETTINGS[recipe],
        multirun=arguments.multirun,
        config_dir=arguments.config_dir,
    )
    from lightning_losses.checkpoints.interruption import terminable
    from lightning_losses.experiments.config.check_config import check_trainer, check_writable

    own = [line for line in arguments.overrides if not line.lstrip("+~").startswith("hydra")]
    for config in configs:
        # All, before any of them starts CUDA by a step.
        fix_workspaces(config)
    with allowing(allowed), terminable():
        launched = any(line.startswith("hydra/launcher=submitit") for line in arguments.overrides)
        for config in configs:
            if config.get("trainer"):
                check_trainer(config.trainer, sweeping=arguments.multirun and not launched)
            for key in ("resume", "output", "cache", "results"):
                if config.get(key) is not None and not (key == "output" and config.get("resume")):
                    check_writable(key, config[key])
            for key in ("teacher_weights", "checkpoint", "logits", "test_logits"):
                if config.get(key) is not None:
                    check_place(key, config[key])
            experiment = experiment_of(config, program, own)
            if arguments.multirun and experiment.no_sweep:
                raise ConfigError(experiment.no_sweep)
            if config.get("logger"):
                from lightning_losses.experiments.loggers.loggers import check_logger

                check_logger(config)
            experiment.rehearse()
    return allowed


def _guarded(program: str, options: Sequence[str] = (), allowed: Sequence[str] = ()) -> Callable[[DictConfig], Any]:
    from lightning_losses.callbacks.records.metrics_file import last_metric
    from lightning_losses.checkpoints.interruption import exit_code, interrupt_behind, terminable
    from lightning_losses.checkpoints.process_states import first_process
    from lightning_losses.checkpoints.slurm import queued_again
    from lightning_losses.numerics.checks import debug

    def guarded(config: DictConfig) -> Any:
        folder = Path(HydraConfig.get().runtime.output_dir)
        # As they were given: what they refer to is no part of a command line.
        given: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
        # What a folder, which may have come from elsewhere, is not asked for.
        repeated = [*to_repeat(folder, given), *options]
        go_on = " ".join([program, f"resume={shlex.quote(_relative(folder))}", *map(shlex.quote, repeated)])
        if queued_again() and "resume" in config and (folder / "checkpoints").is_dir():
            # A job that SLURM has queued again goes on in its folder.
            config.resume = str(folder)
        try:
            with debug(bool(config.debug)), allowing(allowed), terminable():
                experiment = experiment_of(config, program, given)
                result = experiment.run(folder)
                metric = None if experiment.no_sweep else config.get("optimized_metric")
                # A sweeper of Hydra's asks for a number.
                return result if metric is None else last_metric(folder / "metrics.jsonl", metric)
        except (KeyboardInterrupt, SystemExit) as error:
            interrupt = interrupt_behind(error)
            if interrupt is None:
                raise
            if first_process():
                tell(f"Interrupted. Continue this run by\n  {go_on}")
            sys.exit(exit_code(interrupt))
        except Exception as error:
            if config.debug or os.environ.get("HYDRA_FULL_ERROR") == "1" or not expected(error):
                raise
            if refused(error) and not first_process():
                # The first one says it: all processes learn what a checkpoint met.
                sys.exit(2)
            fail(
                error,
                f"\nWhen that is mended, continue this run by\n  {go_on}" if refused(error) or killed(error) else "",
            )

    return guarded


def _shown(config: DictConfig) -> None:
    """Hydra's arguments for a command that runs nothing."""


def script() -> str:
    """How this process was started, without its arguments."""
    started = sys.argv[0]
    return f"python {shlex.quote(_relative(Path(started)))}" if started.endswith(".py") else started


def _resumed(arguments: list[str]) -> list[str]:
    """With ``resume=FOLDER``, the overrides of that run before the given ones, and its folder as this run's."""
    given = [argument for argument in arguments if argument.startswith("resume=")]
    if not given or given[-1] in ("resume=", "resume=null"):
        return arguments
    folder = Path(given[-1].removeprefix("resume=").strip("'\"")).expanduser()
    if not (folder / ".hydra" / "overrides.yaml").is_file():
        raise ConfigError(
            f"{given[-1]}: there is no run in that folder; give the folder of an interrupted run, "
            "the one that holds .hydra/."
        )
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError(f"{given[-1]}: one run is resumed at a time; leave out -m (--multirun).")
    if "${" in str(folder) or "'" in str(folder):
        raise ConfigError(f"{given[-1]}: this name means something else to Hydra; rename the folder.")
    # The folder's name is no override: it may have any character.
    others = [argument for argument in arguments if not argument.startswith("resume=")]
    check_own_folder(folder, others)
    before = saved_overrides(folder, others)
    from lightning_losses.callbacks.records.metrics_file import read_metrics

    for record in sorted(folder.rglob("metrics.jsonl")):
        # Otherwise damage would only be noticed after the training.
        read_metrics(record)
    # A further process is started by the same arguments, after this one has saved them.
    rest = [argument for argument in others if argument not in before]
    return [*before, *rest, f"resume='{folder}'", f"hydra.run.dir='{folder}'"]


def _relative(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
