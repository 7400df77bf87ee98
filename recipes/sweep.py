"""Run a W&B sweep file without a server.

    python recipes/sweep.py conf/sweep/distill.yaml count=10
    python recipes/sweep.py conf/sweep/distill.yaml count=10 parallel=2 data=digits    # overrides go to every trial
    python recipes/sweep.py conf/sweep/grokking.yaml count=20 folder=outputs/sweeps/second

The same command continues a sweep that was interrupted; a trial that has ended is never run again. With a server, the
same file is started by `wandb sweep FILE`.

    count=N         trials in all; not needed where the grid or run_cap says how many there are
    parallel=N      trials at once (1)
    folder=FOLDER   where the sweep goes (outputs/sweeps/<name of the file>)
    search_seed=N   of what is drawn at random (0)
    retry=true      run failed trials again
"""

import difflib
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console

import lightning_losses
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.launch import program
from lightning_losses.experiments.sweeps.report import SweepReport, best_command
from lightning_losses.experiments.sweeps.runner import Runner, default_folder
from lightning_losses.experiments.sweeps.sweep_file import Sweep, check_runs, read_sweep
from lightning_losses.experiments.sweeps.trials import Journal


@dataclass(frozen=True)
class Settings:
    """What the command line says beside the file and the overrides."""

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
    readers: dict[str, Callable[[str], Any]] = {
        "count": _whole,
        "parallel": _whole,
        "folder": Path,
        "search_seed": int,
        "retry": _truth,
    }
    assert set(readers) == {field.name for field in fields(Settings)}
    settings: dict[str, Any] = {}
    overrides = []
    for word in arguments:
        key, equals, value = word.partition("=")
        if equals and key in readers:
            try:
                settings[key] = readers[key](value)
            except ValueError:
                raise ConfigError(f"{word}: give {_WORDS[key]}.") from None
        elif equals and (near := difflib.get_close_matches(key, readers, n=1, cutoff=0.8)):
            raise ConfigError(f"{word}: did you mean {near[0]}? A sweep takes {', '.join(readers)} and overrides.")
        elif word not in files:
            overrides.append(word)
    return _find(Path(files[0])), Settings(**settings), overrides


def sweep(path: Path, settings: Settings, overrides: Sequence[str]) -> SweepReport:
    """Check a sweep, run or continue it, and write its report.

    Raises:
        ConfigError: a file, parameters or a setting that can't be run.
        KeyboardInterrupt: after the report of what there is.
    """
    found = read_sweep(path)
    endless = found.method != "grid" and found.run_cap is None
    if settings.count is None and endless:
        raise ConfigError(f"{path}: method {found.method} has no end; give count=10, or run_cap in the file.")
    check_runs(found, overrides)
    folder = settings.folder or default_folder(path)
    identity = {"definition": found.definition, "overrides": list(overrides), "search_seed": settings.search_seed}
    console = Console(soft_wrap=True, highlight=False, markup=False)
    with Journal(folder, identity) as journal:
        runner = Runner(found, journal, overrides=overrides, seed=settings.search_seed, parallel=settings.parallel)
        if before := sum(trial.ended for trial in journal.trials):
            console.print(f"{before} trials were run before.")
        try:
            runner.run(settings.count, retry=settings.retry)
        finally:
            report = _report(found, runner, overrides)
            report.write(folder)
    report.show()
    console.print(f"The table and the picture are in {folder}")
    return report


def main() -> None:
    """Start from the command line."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        sys.exit(0 if arguments else 2)
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    try:
        sweep(*parse(arguments))
    except KeyboardInterrupt:
        console.print(f"Interrupted. Continue this sweep by\n  {shlex.join([*program().split(), *arguments])}")
        sys.exit(130)
    except ConfigError as error:
        console.print(f"Error: {error}")
        sys.exit(2)


def _report(found: Sweep, runner: Runner, overrides: Sequence[str]) -> SweepReport:
    command = f"{program()} {shlex.join(sys.argv[1:])}"
    return SweepReport(found, runner.trials, command, best_command(found, runner.trials, overrides))


def _find(path: Path) -> Path:
    """The file, or the one of that name that comes with the library."""
    if path.is_file() or path.parent != Path("."):
        return path
    own = Path(lightning_losses.__file__).parent / "conf" / "sweep" / path.with_suffix(".yaml").name
    beside = Path(__file__).parents[1] / "conf" / "sweep" / path.with_suffix(".yaml").name
    return next((file for file in (own, beside) if file.is_file()), path)


_WORDS = {
    "count": "a whole number of at least 1",
    "parallel": "a whole number of at least 1",
    "folder": "a folder",
    "search_seed": "a whole number",
    "retry": "true or false",
}


def _whole(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


if __name__ == "__main__":
    main()
