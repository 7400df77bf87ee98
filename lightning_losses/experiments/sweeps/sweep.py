"""Starts or continues a sweep: from its command line to its report."""

import difflib
import importlib.resources
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_losses.experiments.config.check_config import ConfigError, check_writable
from lightning_losses.experiments.config.check_overrides import CONFIG_MODULE, check_links
from lightning_losses.experiments.sweeps.command import recipe_of
from lightning_losses.experiments.sweeps.report import SweepReport, best_command
from lightning_losses.experiments.sweeps.runner import Runner, default_folder
from lightning_losses.experiments.sweeps.sweep_file import Sweep, check_runs, read_sweep
from lightning_losses.experiments.sweeps.trials import Journal


@dataclass(frozen=True)
class Settings:
    """The settings on the command line, besides the file and the overrides."""

    count: int | None = None
    parallel: int = 1
    folder: Path | None = None
    search_seed: int = 0
    retry: bool = False


def parse(arguments: Sequence[str]) -> tuple[Path, Settings, list[str]]:
    """The sweep file, the settings, and the overrides for every trial.

    Raises:
        ConfigError: no file, or a setting with a wrong value.
    """
    files = [word for word in arguments if "=" not in word and word[:1] not in "-~+"]
    if len(files) != 1:
        came = ", ".join(files) or "none"
        raise ConfigError(f"sweep: {came} came; give one sweep file, such as conf/sweep/distill.yaml.")
    settings: dict[str, Any] = {}
    overrides = []
    for word in arguments:
        key, equals, value = word.partition("=")
        if equals and key in _SETTINGS:
            read, kind = _SETTINGS[key]
            try:
                settings[key] = read(value)
            except ValueError:
                raise ConfigError(f"{word}: give {kind}.") from None
        elif equals and (near := difflib.get_close_matches(key, _SETTINGS, n=1, cutoff=0.8)):
            raise ConfigError(f"{word}: did you mean {near[0]}? A sweep takes {', '.join(_SETTINGS)} and overrides.")
        elif word not in files:
            overrides.append(word)
    return _find(Path(files[0])), Settings(**settings), overrides


def sweep(path: Path, settings: Settings, overrides: Sequence[str], *, program: str, command: str) -> SweepReport:
    """Check a sweep, run or continue it, and write its report.

    Args:
        path: the sweep file.
        settings: the settings of the command line.
        overrides: the overrides for every trial.
        program: the program that was started, without arguments.
        command: the command that starts the sweep again.

    Raises:
        ConfigError: a file, parameters or a setting that can't be run; a folder that can't be written to.
        KeyboardInterrupt: after a report on the trials so far.
    """
    found = read_sweep(path)
    endless = found.method != "grid" and found.run_cap is None
    if settings.count is None and endless:
        raise ConfigError(f"{path}: method {found.method} has no end; give count=10, or run_cap in the file.")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    trial_overrides = [*overrides, *_in_place_of_wandb(found, overrides)]
    if len(trial_overrides) > len(overrides):
        console.print("W&B is not installed: the trials log into CSV files (logger=csv).")
    check_runs(found, trial_overrides)
    folder = settings.folder or default_folder(path)
    check_writable("folder", folder)
    check_links(folder)
    identity = {"definition": found.definition, "overrides": list(overrides), "search_seed": settings.search_seed}
    with Journal(folder, identity) as journal:
        runner = Runner(
            found, journal, overrides=trial_overrides, seed=settings.search_seed, parallel=settings.parallel
        )
        if before := sum(trial.ended for trial in journal.trials):
            console.print(f"{before} trials were run before.")
        try:
            runner.run(settings.count, retry=settings.retry)
        finally:
            best = best_command(found, runner.trials, trial_overrides, program=program)
            report = SweepReport(found, runner.trials, command, best)
            report.page().write(folder)
    report.page().show()
    console.print(f"The table and the picture are in {folder}")
    return report


def _in_place_of_wandb(sweep: Sweep, overrides: Sequence[str]) -> list[str]:
    """Overrides that replace the W&B logger of a file's runs if W&B is not installed."""
    chosen = [word for word in (*sweep.words({}), *overrides) if word.startswith("logger=")]
    recipe = recipe_of(sweep.words({}))
    missing = recipe == "train" and chosen[-1:] == ["logger=wandb"] and importlib.util.find_spec("wandb") is None
    return ["logger=csv"] if missing and "logger=wandb" not in overrides else []


def _find(path: Path) -> Path:
    """The file, or the bundled file of that name in ``conf/sweep``."""
    if path.is_file() or path.parent not in (Path("."), Path("conf/sweep")):
        return path
    own = importlib.resources.files(f"{CONFIG_MODULE}.sweep") / path.with_suffix(".yaml").name
    return Path(str(own)) if own.is_file() else path


def _whole(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


# How each setting is parsed, and its description.
_SETTINGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "count": (_whole, "a whole number of at least 1"),
    "parallel": (_whole, "a whole number of at least 1"),
    "folder": (Path, "a folder"),
    "search_seed": (int, "a whole number"),
    "retry": (_truth, "true or false"),
}
