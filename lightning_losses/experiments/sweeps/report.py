"""The report of a sweep: a table, CSV, Markdown, and parallel coordinates."""

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.sweeps.command import recipe_of
from lightning_losses.experiments.sweeps.distributions import LOGARITHMIC
from lightning_losses.experiments.sweeps.sweep_file import Sweep, belongs_to_choice, overrides_of
from lightning_losses.experiments.sweeps.trials import Trial, by_metric
from lightning_losses.plots.parallel_coordinates import Coordinate, parallel_coordinates

# Longer names of choices are cut in the picture.
_LONG = 18
# More axes are unreadable: those of single objectives are then left out.
_AXES = 8
# A longer list of numbers gets a numeric axis.
_CHOICES = 12
_OWN = "of its own"
# The end of a command that starts a sweep: a script, or a sub-command.
_SWEEP = re.compile(r"(?P<before>^|.*[ /])sweep(?P<after>\.py)?$")


@dataclass(frozen=True)
class SweepReport:
    """The results of a sweep so far.

    Attributes:
        sweep: the sweep.
        trials: the trials that have begun, in order.
        command: the command that starts or continues it.
        best: the command that starts the best trial again, without the sweep; None until a trial has a value.
    """

    sweep: Sweep
    trials: Sequence[Trial]
    command: str
    best: str | None

    @property
    def varied(self) -> list[str]:
        """The parameters with more than one value, by dotted name."""
        return [name for name, distribution in self.sweep.parameters.items() if distribution.varies]

    @property
    def ended(self) -> list[Trial]:
        """The trials that have ended, from the best to the worst."""
        return by_metric([trial for trial in self.trials if trial.ended], self.sweep.metric)

    @property
    def shared(self) -> list[str]:
        """The varied parameters that every trial has."""
        return [name for name in self.varied if not belongs_to_choice(name)]

    def columns(self) -> list[str]:
        """The table's columns; parameters that only some objectives have share one column."""
        metric = self.sweep.metric
        values = [] if metric is None else [metric.name, f"last {metric.name}"]
        own = [_OWN] if self.shared != self.varied else []
        return ["trial", *values, *(_label(name, self.varied) for name in self.shared), *own, "state", "seconds"]

    def rows(self) -> list[list[str]]:
        """The table's cells, the best trial first."""
        return [
            [
                str(trial.number),
                *self._values(trial),
                *(_cell(trial.parameters.get(name)) for name in self.shared),
                *([self._own(trial)] if self.shared != self.varied else []),
                trial.state,
                f"{trial.seconds:.1f}",
            ]
            for trial in self.ended
        ]

    def note(self) -> str:
        """The explanation of the table's cells."""
        metric = self.sweep.metric
        parts = [f"{len(self.ended)} trial{'' if len(self.ended) == 1 else 's'}."]
        if metric is not None:
            best = "smallest" if metric.goal == "minimize" else "largest"
            parts.append(f"{metric.name}: the {best} value that the run reported; last: the value it ended with.")
        if self.shared != self.varied:
            parts.append(f"{_OWN}: the parameters of the objective that the trial chose.")
        if any(trial.state == "stopped" for trial in self.ended):
            parts.append("stopped: by early termination, or because another trial had reached the target.")
        constants = {name: d.quantile(0.0) for name, d in self.sweep.parameters.items() if not d.varies}
        if constants:
            parts.append(f"In all: {', '.join(f'{name}={value}' for name, value in constants.items())}.")
        return " ".join(parts)

    def page(self) -> Page:
        """The table, the command of the best trial, the failures, and a picture."""
        drawn = self._drawn()
        failed = [f"Trial {trial.number} failed: {trial.message}" for trial in self.ended if trial.state == "failed"]
        best = [] if self.best is None else ["The best trial again:"]
        return Page(
            title=self.sweep.name,
            command=self.command,
            body=[
                Table(self.columns(), self.rows(), left=0),
                self.note(),
                *(f"{line}\n\n```bash\n{self.best}\n```" for line in best),
                *failed,
                "![parallel coordinates](parallel_coordinates.png)" if drawn else "",
            ],
            said=[self.note(), *failed, *(f"{line}\n  {self.best}" for line in best)],
            figures={"parallel_coordinates.png": lambda: self._figure(drawn)} if drawn else {},
            files={"sweep.csv": self._numbers().csv()},
            name="sweep",
        )

    def _figure(self, drawn: Sequence[Trial]) -> Figure:
        metric = self.sweep.metric
        assert metric is not None
        return parallel_coordinates(
            [
                Coordinate(
                    _label(name, self.varied),
                    [_point(trial.parameters.get(name), self._is_list(name)) for trial in drawn],
                    self.sweep.parameters[name].kind in LOGARITHMIC,
                )
                for name in (self.varied if len(self.varied) <= _AXES else self.shared)
            ],
            [trial.value(metric) or 0.0 for trial in drawn],
            score=metric.name,
            smaller_is_better=metric.goal == "minimize",
        )

    def _values(self, trial: Trial) -> list[str]:
        metric = self.sweep.metric
        return [] if metric is None else [_cell(trial.value(metric)), _cell(trial.last(metric))]

    def _own(self, trial: Trial) -> str:
        """The parameters of the objective that a trial chose."""
        own = {name: value for name, value in trial.parameters.items() if belongs_to_choice(name)}
        return ", ".join(f"{_label(name, list(own))} {_cell(value)}" for name, value in own.items()) or "–"

    def _drawn(self) -> list[Trial]:
        """The trials that have a value, if there is an axis for them."""
        metric = self.sweep.metric
        if metric is None or not self.varied:
            return []
        return [trial for trial in self.ended if trial.value(metric) is not None]

    def _is_list(self, name: str) -> bool:
        """Whether an axis shows choices: texts, or a short list of numbers."""
        distribution = self.sweep.parameters[name]
        return distribution.categorical and len(distribution.options["values"]) <= _CHOICES

    def _numbers(self) -> Table:
        """The CSV table: one row per trial, with all its parameters."""
        metric = self.sweep.metric
        names = list(self.sweep.parameters)
        values = [] if metric is None else [metric.name, f"last {metric.name}"]
        rows = []
        for trial in self.ended:
            numbers = [] if metric is None else [trial.value(metric), trial.last(metric)]
            cells = [trial.parameters.get(name) for name in names]
            rows.append([trial.number, trial.state, f"{trial.seconds:.3f}", *numbers, *cells])
        return Table(["trial", "state", "seconds", *values, *names], rows)


def best_command(sweep: Sweep, trials: Sequence[Trial], overrides: Sequence[str], *, program: str = "") -> str | None:
    """The shell command that starts the best finished trial again.

    Args:
        sweep: the sweep of the trials.
        trials: all trials.
        overrides: the overrides of every trial.
        program: the program that started the sweep, without arguments; recipes are started in the same way.
    """
    if sweep.metric is None:
        return None
    finished = by_metric([trial for trial in trials if trial.state == "finished"], sweep.metric)
    if not finished or finished[0].value(sweep.metric) is None:
        return None
    words = [*sweep.words(finished[0].parameters), *overrides]
    if (recipe := recipe_of(words)) is not None and (start := _SWEEP.sub(rf"\g<before>{recipe}\g<after>", program)):
        return f"{start} {shlex.join(overrides_of(words, recipe))}"
    if words[0] == "/usr/bin/env" and "=" not in words[1]:
        words = words[1:]
    same = shutil.which("python") is not None and Path(str(shutil.which("python"))).samefile(sys.executable)
    words[0] = "python" if words[0] == sys.executable and same else words[0]
    return shlex.join(words)


def _label(name: str, names: Sequence[str]) -> str:
    if belongs_to_choice(name) and not all(belongs_to_choice(other) for other in names):
        return f"{name.split('.')[1]}: {name.rpartition('.')[2]}"
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        ending = ".".join(parts[-length:])
        if sum(other == ending or other.endswith(f".{ending}") for other in names) == 1:
            return ending
    return name


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _point(value: Any, choice: bool) -> float | str | None:
    if value is None:
        return None
    if not choice and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    # A long list of texts shows choices too.
    text = str(value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"
