"""The results of a comparison over learning rates: sensitivities, a picture, a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from matplotlib.figure import Figure

from lightning_losses.diagnostics.learning_rate_sensitivity import learning_rate_sensitivity
from lightning_losses.experiments.evidence.seed_interval import SeedInterval, seed_interval
from lightning_losses.experiments.page import Table
from lightning_losses.plots.connectivity import learning_rate_curves

RATE_METRICS = ("sensitivity", "lowest_nll", "seconds")


@dataclass(frozen=True)
class LearningRates:
    """The results at every learning rate, by run, rate and seed; None for a run that failed.

    Attributes:
        rates: rising.
        final: NLL on test data; NaN where training diverged.
        initial: of the untrained network.
        seconds: of training.
    """

    rates: tuple[float, ...]
    final: dict[str, list[list[float | None]]]
    initial: dict[str, list[list[float | None]]]
    seconds: dict[str, list[list[float | None]]]

    def summary(self) -> dict[str, dict[str, list[float]]]:
        """By run and metric, a number a seed; NaN where a run of the seed broke."""
        found: dict[str, dict[str, list[float]]] = {}
        for run in self.final:
            columns: dict[str, list[float]] = {metric: [] for metric in RATE_METRICS}
            found[run] = columns
            for final, initial, seconds in zip(*map(_by_seed, (self.final[run], self.initial[run], self.seconds[run])),
                                               strict=True):  # fmt: skip
                known = [number for number in final if number is not None]
                if len(known) < len(final):
                    # The lowest of fewer rates, and their time, are not those of the other runs.
                    numbers = [math.nan] * len(RATE_METRICS)
                else:
                    start = next((number for number in initial if number is not None), math.nan)
                    lowest = min((loss for loss in known if math.isfinite(loss)), default=math.nan)
                    numbers = [learning_rate_sensitivity(known, start), lowest, sum(one or 0.0 for one in seconds)]
                for metric, number in zip(RATE_METRICS, numbers, strict=True):
                    columns[metric].append(number)
        return found

    def scalars(self) -> dict[str, float]:
        """The numbers for a logger: the sensitivity of every run, over the seeds."""
        return {
            f"learning_rate_sensitivity/{run}": seed_interval(columns["sensitivity"]).mean
            for run, columns in self.summary().items()
        }

    def table(self, seeds: Sequence[int]) -> Table:
        """A line for each run, learning rate and seed; if it failed or diverged, with this instead of numbers."""
        lines: list[list[Any]] = []
        for run, rows in self.final.items():
            for place, rate in enumerate(self.rates):
                for order, seed in enumerate(seeds):
                    end = rows[place][order]
                    start, seconds = self.initial[run][place][order], self.seconds[run][place][order]
                    word = "broke" if end is None else "finite" if math.isfinite(end) else "diverged"
                    number = "" if end is None or not math.isfinite(end) else end
                    lines.append([run, rate, seed, number, start, seconds, word])
        return Table(["run", "learning_rate", "seed", "nll", "initial_nll", "seconds", "ended"], lines)

    def intervals(self, run: str) -> list[SeedInterval]:
        """At each rate, the lower one of final and initial loss; NaN for a run that failed."""
        return [
            seed_interval(
                [
                    math.nan if end is None or start is None else min(end, start) if math.isfinite(end) else start
                    for end, start in zip(finals, starts, strict=True)
                ]
            )
            for finals, starts in zip(self.final[run], self.initial[run], strict=True)
        ]

    def diverged(self, run: str) -> list[int]:
        """At each rate, how many seeds ended no better than untrained."""
        return [
            sum(end is not None and start is not None and not end < start
                for end, start in zip(finals, starts, strict=True))
            for finals, starts in zip(self.final[run], self.initial[run], strict=True)
        ]  # fmt: skip

    @property
    def whole(self) -> dict[str, list[int]]:
        """The places of the seeds that `figure` draws, by run: of one that broke at a rate no sensitivity is known."""
        return {
            run: [place for place, own in enumerate(_by_seed(rows)) if None not in own]
            for run, rows in self.final.items()
        }

    def figure(self) -> Figure:
        """Final loss over the learning rate, a line a run."""
        whole = self.whole
        points = {
            run: {rate: [float(row[place] or 0.0) for place in whole[run]]
                  for rate, row in zip(self.rates, rows, strict=True)}
            for run, rows in self.final.items() if whole[run]
        }  # fmt: skip
        starts = {run: [float(self.initial[run][0][place] or 0.0) for place in whole[run]] for run in points}
        return learning_rate_curves(points, starts)

    def to_json(self) -> dict[str, Any]:
        """The values for JSON, which has no NaN: a diverged run is written as a word, since None marks a failed one."""
        marked: dict[str, Any] = _marked(asdict(self))
        return marked

    @classmethod
    def from_json(cls, node: Mapping[str, Any] | None) -> "LearningRates | None":
        """The inverse of `to_json`."""
        if node is None:
            return None
        read = {
            name: {run: _read(rows) for run, rows in node[name].items()} for name in ("final", "initial", "seconds")
        }
        return cls(tuple(node["rates"]), **read)


def _by_seed(rows: Sequence[Sequence[float | None]]) -> list[list[float | None]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _marked(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _marked(value) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [_marked(value) for value in node]
    return "diverged" if isinstance(node, float) and not math.isfinite(node) else node


def _read(node: Any) -> Any:
    if isinstance(node, list):
        return [_read(item) for item in node]
    return math.nan if node == "diverged" else node
