"""The report of a comparison: tables, CSV, JSON and a figure of several objectives over several seeds."""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from lightning_losses.plots.seed_intervals import seed_intervals
from lightning_losses.plots.style import save_figure
from lightning_losses.recipe.seed_interval import SeedInterval, seed_interval

Scores = dict[str, float]
Stage = Literal["before", "after"]
METRICS = ("accuracy", "nll", "brier", "ece", "adaptive_ece", "classwise_ece", "aurc")
# What tables call them, and in what unit: shares in percent, the rest as it is.
_NAMES = {
    "accuracy": "accuracy, %",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE, %",
    "adaptive_ece": "adaptive ECE, %",
    "classwise_ece": "classwise ECE, %",
    "aurc": "AURC × 1000",
}
_FACTORS = {"accuracy": 100, "nll": 1, "brier": 1, "ece": 100, "adaptive_ece": 100, "classwise_ece": 100, "aurc": 1000}
_DIGITS = {"accuracy": 2, "nll": 3, "brier": 3, "ece": 2, "adaptive_ece": 2, "classwise_ece": 2, "aurc": 1}
_HEADINGS: dict[Stage, str] = {"before": "As trained", "after": "After temperature scaling"}


@dataclass(frozen=True)
class Comparison:
    """What a comparison of objectives found.

    Attributes:
        title: one line.
        command: what starts it again.
        labels: what tables call each run, by name.
        seeds: in order.
        before: by run, the test scores as trained, a seed each.
        after: those after temperature scaling on validation data.
        temperatures: by run, a seed each.
        reference: by run, the run that it is compared with.
        caveat: what the numbers do not show.
        settings: the whole configuration.
        seconds: of the whole comparison.
    """

    title: str
    command: str
    labels: dict[str, str]
    seeds: tuple[int, ...]
    before: dict[str, list[Scores]]
    after: dict[str, list[Scores]]
    temperatures: dict[str, list[float]]
    reference: dict[str, str]
    caveat: str
    settings: dict[str, Any]
    seconds: float

    def values(self, stage: Stage, run: str, metric: str) -> list[float]:
        """A metric of a run, a seed each."""
        return [scores[metric] for scores in getattr(self, stage)[run]]

    def interval(self, stage: Stage, run: str, metric: str) -> SeedInterval:
        """A metric of a run over the seeds."""
        return seed_interval(self.values(stage, run, metric))

    def difference(self, stage: Stage, run: str, metric: str) -> SeedInterval:
        """How much more it is than in the run's reference, paired by seed: the data of a seed are the same."""
        pairs = zip(self.values(stage, run, metric), self.values(stage, self.reference[run], metric), strict=True)
        return seed_interval([own - other for own, other in pairs])

    @property
    def note(self) -> str:
        """What the tables' cells mean."""
        return (
            f"Test data; mean and 95% interval (Student's t) over seeds {', '.join(map(str, self.seeds))}. * differs "
            "from the run that it is compared with (the first one, where none is named), by a 95% interval of the "
            "difference paired by seed; among many cells a twentieth does so by chance."
        )

    def rows(self, stage: Stage) -> Iterator[list[str]]:
        """The lines of a stage's table."""
        for run, label in self.labels.items():
            yield [label, *(self._cell(stage, run, metric) for metric in METRICS)]

    def markdown(self) -> str:
        """The whole report as Markdown."""
        lines = [f"# {self.title}", "", f"`{self.command}`", ""]
        for stage, heading in _HEADINGS.items():
            lines += [f"## {heading}", "", *self._table(stage), ""]
        lines += [self.note, "", *([self.caveat, ""] if self.caveat else []), "![comparison](comparison.png)", ""]
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write ``comparison.md``, ``comparison.csv``, ``comparison.json`` and ``comparison.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.md").write_text(self.markdown())
        with (folder / "comparison.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["run", "stage", "metric", "mean", "half_width_95", "seeds"])
            writer.writerows(
                [run, stage, metric, *self.interval(stage, run, metric), len(self.seeds)]
                for run in self.labels
                for stage in _HEADINGS
                for metric in METRICS
            )
        content = {
            "title": self.title,
            "command": self.command,
            "seeds": self.seeds,
            "seconds": self.seconds,
            "runs": {run: self._plain(run) for run in self.labels},
            "settings": self.settings,
        }
        (folder / "comparison.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        shown = {"nll": "NLL (nats)", "brier": "Brier score", "ece": "ECE"}
        figure = seed_intervals(
            {
                axis: {
                    label: [self.interval(stage, run, metric) for stage in _HEADINGS]
                    for run, label in self.labels.items()
                }
                for metric, axis in shown.items()
            },
            stages=[heading.lower() for heading in _HEADINGS.values()],
        )
        save_figure(figure, folder / "comparison.png")

    def show(self) -> None:
        """Print the tables."""
        for stage, heading in _HEADINGS.items():
            table = Table(title=f"{self.title}: {heading.lower()}", title_justify="left", box=box.SIMPLE_HEAD)
            for column in ("", *_NAMES.values()):
                table.add_column(column, justify="right" if column else "left", no_wrap=True)
            for row in self.rows(stage):
                table.add_row(*row)
            # Wide enough for every cell, whatever the terminal says.
            Console(width=max(Console().width, 170)).print(table)
        Console(soft_wrap=True, highlight=False).print(self.note)

    def _cell(self, stage: Stage, run: str, metric: str) -> str:
        mean, half = (_FACTORS[metric] * number for number in self.interval(stage, run, metric))
        digits = _DIGITS[metric]
        spread = "" if math.isnan(half) else f" ± {half:.{digits}f}"
        different = self.difference(stage, run, metric).excludes_zero
        return f"{mean:.{digits}f}{spread}{'*' if different else ''}"

    def _table(self, stage: Stage) -> list[str]:
        lines = [f"| | {' | '.join(_NAMES.values())} |", "|---" + "|---:" * len(METRICS) + "|"]
        return [*lines, *(f"| {' | '.join(row)} |" for row in self.rows(stage))]

    def _plain(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = {"label": self.labels[run], "against": self.reference[run]}
        found["temperature"] = self.temperatures[run]
        for stage in _HEADINGS:
            found[stage] = {
                metric: {
                    "mean": _number(self.interval(stage, run, metric).mean),
                    "half_width": _number(self.interval(stage, run, metric).half),
                    "difference": _number(self.difference(stage, run, metric).mean),
                    "difference_half_width": _number(self.difference(stage, run, metric).half),
                    "values": [_number(value) for value in self.values(stage, run, metric)],
                }
                for metric in METRICS
            }
        return found


def _number(value: float) -> float | None:
    # JSON has no NaN.
    return value if math.isfinite(value) else None
