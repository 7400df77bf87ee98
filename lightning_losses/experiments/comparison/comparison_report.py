"""The report of a comparison: tables as Markdown, LaTeX and CSV, every number as JSON, and two kinds of figures."""

import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from lightning_losses.environment.atomic_files import finite
from lightning_losses.experiments.comparison.learning_rates import LearningRates
from lightning_losses.experiments.comparison.shown_numbers import COSTS, Metric, describe, p_value, shown, spread
from lightning_losses.experiments.config.check_config import ConfigError, nearest
from lightning_losses.experiments.evidence.claims import Claim, Difference, Finding, findings, more_is_better
from lightning_losses.experiments.evidence.friedman import Ranks, friedman
from lightning_losses.experiments.evidence.seed_interval import NO_INTERVAL, SeedInterval, seed_interval
from lightning_losses.experiments.evidence.significance import FEWEST_SEEDS, detectable, holm, paired_t_test, testable
from lightning_losses.experiments.evidence.verdicts import (
    LEVELS,
    Guard,
    Verdict,
    combine,
    guard_control,
    guard_ended,
    guard_interior,
    guard_overconfidence,
    guard_teacher,
)
from lightning_losses.experiments.page import Page, Table, pictures
from lightning_losses.plots.accuracy_against_cost import accuracy_against_cost
from lightning_losses.plots.critical_difference import critical_difference
from lightning_losses.plots.effects import effects
from lightning_losses.plots.seed_intervals import seed_intervals

# Below so many settings ranks tell little.
_FEWEST_RANKED = 10
# A seed so many SDs of the others from their mean is told of: it makes most of the interval.
_APART = 10
_DETECTABLE = "smallest detectable difference (80% power)"


class Judged(NamedTuple):
    """The judgement of a claim: the findings on its differences, the guards that it requires, and the verdict."""

    claim: Claim
    found: list[Finding]
    guards: list[Guard]
    verdict: Verdict

    def told(self, tell: Callable[[Finding], str] = describe) -> list[str]:
        """A line a difference, with its own verdict where there are several."""
        if len(self.found) == 1:
            return [tell(self.found[0])]
        return [f"{tell(one)} ({one.verdict})" for one in self.found]


@dataclass(frozen=True)
class Comparison:
    """The results of a comparison of objectives.

    Attributes:
        title: one line.
        command: what starts it again.
        settings: words by label; one "" where there is one setting.
        runs: words by label, in the order of the tables.
        baseline: the label of the run that the others are compared with.
        seeds: in order.
        values: by setting, run and metric (of `METRICS`, or of `LearningRates.summary`), a number a seed; NaN where a
            run diverged or broke.
        columns: the metrics that tables show.
        claims: to be judged by the numbers.
        margins: by metric, the smallest difference that would matter, stated beforehand.
        guards: by name, the requirements of the claims' guards; see ``conf/compare.yaml``.
        looks: the numbers of seeds after which claims are judged: once, or a second time if the first look is
            undecided.
        untested: claims that can't be tested here.
        made_with: hardware and versions, by name.
        caveat: what the numbers do not show.
        broken: a sentence of every run that broke.
        stale: the number of results from another version of the code.
        tuned: by setting and run, the learning rate and parameter that it was tuned to, its validation score, the
            number of candidates, whether it lies at an edge of them, and the best score at each rate.
        one_by_one: why the seeds of a run were not trained at once, by its label, where others' were.
        config: the whole configuration.
        seconds: of the whole comparison, this time.
        learning_rates: what was found at each, where these were compared.
    """

    title: str
    command: str
    settings: dict[str, str]
    runs: dict[str, str]
    baseline: str
    seeds: tuple[int, ...]
    values: dict[str, dict[str, dict[str, list[float]]]]
    columns: tuple[str, ...] = ("accuracy", "nll", "ece", "calibrated_nll", "calibrated_ece", "seconds", "memory")
    claims: tuple[Claim, ...] = ()
    margins: dict[str, float] = field(default_factory=dict)
    guards: dict[str, Any] = field(default_factory=dict)
    looks: tuple[int, ...] = ()
    untested: tuple[str, ...] = ()
    made_with: dict[str, str] = field(default_factory=dict)
    caveat: str = ""
    broken: list[str] = field(default_factory=list)
    stale: int = 0
    one_by_one: dict[str, str] = field(default_factory=dict)
    tuned: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    learning_rates: LearningRates | None = None

    def __post_init__(self) -> None:
        for column in self.columns:
            if column not in self.metrics:
                raise ConfigError(f"columns: there is no {column!r}; {nearest(column, self.metrics)}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the numbers that every run has."""
        return tuple(next(iter(next(iter(self.values.values())).values())))

    def interval(self, setting: str, run: str, metric: str) -> SeedInterval:
        """A metric of a run over the seeds, within its range."""
        return shown(metric).within(seed_interval(self.values[setting][run][metric]))

    def differences(self, setting: str, run: str, metric: str) -> list[float]:
        """A metric's differences from the baseline, one for each seed: both have the same data for a seed."""
        own, other = (self.values[setting][name][metric] for name in (run, self.baseline))
        return [one - two for one, two in zip(own, other, strict=True)]

    def effects(self, setting: str, metric: str) -> dict[str, SeedInterval]:
        """For every run except the baseline, the mean difference from it and its 95% interval, in the metric's unit."""
        unit = shown(metric)
        return {
            run: SeedInterval(*(unit.factor * end for end in seed_interval(self.differences(setting, run, metric))))
            for run in self.runs
            if run != self.baseline
        }

    @property
    def claimed(self) -> str:
        """The metric of the first claim, which the picture of effects shows; accuracy where there are no claims."""
        return next((one.metric for claim in self.claims for one in claim.differences), "accuracy")

    @property
    def ranked(self) -> str:
        """The metric that settings are ranked by: that of the first claim, or the first column."""
        return self.claimed if self.claims else self.columns[0]

    @cached_property
    def ranks(self) -> Ranks | None:
        """The runs' ranks over the settings by their means over seeds; None for few settings, or learning rates."""
        if len(self.settings) < _FEWEST_RANKED or len(self.runs) < 3 or self.learning_rates is not None:
            return None
        metric = self.ranked
        means = {run: [self.interval(setting, run, metric).mean for setting in self.settings] for run in self.runs}
        return friedman(means, higher_is_better=more_is_better(metric))

    def p_values(self, setting: str, metric: str) -> dict[str, float]:
        """For every run except the baseline, Holm's p-value of the difference, over the runs of the setting."""
        if (setting, metric) not in self._tested:
            others = [run for run in self.runs if run != self.baseline]
            p_values = [paired_t_test(self.differences(setting, run, metric)) for run in others]
            self._tested[setting, metric] = dict(zip(others, holm(p_values), strict=True))
        return self._tested[setting, metric]

    @cached_property
    def _tested(self) -> dict[tuple[str, str], dict[str, float]]:
        return {}

    @property
    def level(self) -> float:
        """The level of a test; with two planned looks, 5% is the error probability of both together."""
        return LEVELS[max(len(self.looks), 1)]

    def judged(self) -> list[Judged]:
        """The judgement of every claim at the first planned look that decides it, or else at the last look taken.

        Raises:
            ConfigError: a claim about an unknown run or metric, or without a margin.
        """
        taken = [look for look in self.looks if look < len(self.seeds)]
        latest = self._judged_after(len(self.seeds))
        for look in reversed(taken):
            earlier = self._judged_after(look)
            latest = [
                late if early.verdict.word == "inconclusive" else early
                for early, late in zip(earlier, latest, strict=True)
            ]
        return latest

    def _judged_after(self, seeds: int) -> list[Judged]:
        values = {
            setting: {
                run: {metric: numbers[:seeds] for metric, numbers in metrics.items()} for run, metrics in runs.items()
            }
            for setting, runs in self.values.items()
        }
        judged = []
        for claim, found in zip(self.claims, findings(self.claims, values, self.margins, self.level), strict=True):
            guards = self._guards_of(claim, values) if found else []
            judged.append(Judged(claim, found, guards, combine([one.verdict for one in found], guards)))
        return judged

    def _guards_of(self, claim: Claim, values: dict[str, dict[str, dict[str, list[float]]]]) -> list[Guard]:
        guards = []
        for setting in dict.fromkeys(difference.setting for difference in claim.differences):
            of = values[setting]
            runs = list(dict.fromkeys(run for one in claim.differences for run in (one.run, one.than)))
            where = f"{setting}: " if setting else ""
            metric = claim.differences[0].metric
            own = [guard_ended([of[run][metric] for run in runs])] if "nll" in of[runs[0]] else []
            if tuned := self.tuned.get(setting):
                own.append(guard_interior([run for run in runs if run in tuned and tuned[run]["at_edge"]]))
            for name in (name for name in claim.guards if name in self.guards):
                asked, baseline = self.guards[name], of[self.baseline]
                if name == "teacher":
                    measured = [of[run]["teacher_accuracy"] for run in runs]
                    taught = [one for one in measured if all(map(math.isfinite, one))]
                    # Runs may have unlike teachers.
                    worst = min(taught, key=statistics.fmean, default=measured[0])
                    own.append(guard_teacher(worst, baseline["accuracy"], self.baseline, asked))
                elif name == "overconfidence":
                    own.append(guard_overconfidence(baseline["overconfidence"], self.baseline, asked))
                else:
                    control = Difference(**{"setting": setting, **asked})
                    effect = f"{control.shows} {shown(control.metric).plain} of {control.run} than of {control.than}"
                    own.append(guard_control(control.gains(values), effect, self.level))
            guards += [Guard(where + guard.sentence, guard.holds) for guard in own]
        return guards

    @property
    def note(self) -> str:
        """The meaning of the tables' cells."""
        first, last = self.seeds[0], self.seeds[-1]
        ordered = len(self.seeds) > 2 and self.seeds == tuple(range(first, last + 1))
        seeds = f"{first} to {last}" if ordered else ", ".join(map(str, self.seeds))
        tests = len(self.runs) - 1
        text = f"Test data; mean ± half the 95% interval (Student's t) over seeds {seeds}"
        text += ", or [low, high] where it stops at the end of what is possible; no interval where nothing differs."
        if len(self.seeds) < FEWEST_SEEDS:
            text = f"Test data; mean over seeds {seeds}. Below {FEWEST_SEEDS} seeds there is no interval and no test."
        if self.learning_rates is not None:
            text += (
                " LR sensitivity: the mean over the learning rates of what is lost against the best of them, "
                "min(final NLL, NLL of the untrained network) - lowest NLL; × where that many seeds ended no better "
                "than untrained."
            )
        if tests and len(self.seeds) >= FEWEST_SEEDS:
            text += (
                f" * differs from {self.baseline}: paired t test over the seeds, p below {self.level:g} after Holm's "
                f"correction for the {tests} comparisons of a setting and metric."
            )
        if "seconds" in self.columns:
            text += " Seconds: the training time of a run on one CPU thread"
            text += ", at all learning rates together" if self.learning_rates is not None else ""
            text += "; where all seeds were trained at once, its share of their time" * bool(self.config.get("stacked"))
            cached = self.config.get("cached_logits") and self._is_measured("teacher_accuracy")
            text += ". Not in it is the time of the teachers' logits, which were computed before." if cached else "."
        if "memory" in self.columns:
            text += " Memory: what a step holds at its peak beyond weights and data."
        if any("calibrated" in column for column in self.columns):
            text += " Calibrated: after temperature scaling on validation data."
        if self.tuned:
            text += (
                f" Every run was tuned by one rule, by {self._tuned_by.plain} on seeds that are not among these; what "
                "was chosen was frozen before these seeds were trained."
            )
        if self.one_by_one:
            runs = {reason: [run for run, own in self.one_by_one.items() if own == reason]
                    for reason in self.one_by_one.values()}  # fmt: skip
            reasons = "; ".join(f"{', '.join(own)} ({reason})" for reason, own in runs.items())
            text += f" Seeds trained one by one: {reasons}."
        text = " ".join([text, *self.warnings()])
        if self.stale:
            text += f" {self.stale} of the results were made by an earlier version of the code."
        return text

    def warnings(self) -> Iterator[str]:
        """A sentence for each tuned value at an edge of what was tried, and for each seed far from the others."""
        for setting, runs in self.tuned.items():
            for run, one in runs.items():
                if one["at_edge"]:
                    rates = list(map(float, one["by_rate"]))
                    within = min(rates) < one["learning_rate"] < max(rates)
                    value = one["parameter"] if within else f"learning_rate={one['learning_rate']:g}"
                    yield (
                        f"The tuned value of {run}{_in(setting)}, {value}, lies at an edge of what was tried: a better "
                        f"one may lie beyond, so that the numbers of {run} are no verdict on it."
                    )
        unit = shown(self.ranked)
        for setting, run, seed, value, others in self.apart() if self.ranks is None else ():
            own, mean = (f"{unit.factor * number:.{unit.digits}f}{unit.sign}" for number in (value, others))
            yield (
                f"Seed {seed} of {run}{_in(setting)} lies far from the others: its {unit.plain} is {own}, the mean of "
                f"the others {mean}."
            )

    def tables(self) -> list[Table]:
        """For one setting, a table of all columns; for several, a table for each column, with a column a setting."""
        if len(self.settings) == 1:
            (setting,) = self.settings
            heads = [*(shown(column).name for column in self.columns)]
            rows = [[run, *(self._cell(setting, run, column) for column in self.columns)] for run in self.runs]
            first = self.columns[0]
            if len(self.runs) > 1 and len(self.seeds) >= FEWEST_SEEDS and first not in COSTS:
                p_values = self.p_values(setting, first)
                heads[1:1] = [f"difference from {self.baseline}, p", "SD", _DETECTABLE]
                for row, run in zip(rows, self.runs, strict=True):
                    row[2:2] = [
                        self._difference(setting, run, first, p_values),
                        self._deviation(setting, run, first),
                        self._power(setting, run, first),
                    ]
            return [Table(["", *heads], rows, setting), *self._at_each_rate(), *self._tuned_to()]
        tables = [
            Table(
                ["", *self.settings],
                [[run, *(self._cell(setting, run, column) for setting in self.settings)] for run in self.runs],
                shown(column).name,
            )
            for column in self.columns
        ]
        metric, others = self.ranked, [run for run in self.runs if run != self.baseline]
        if others and len(self.seeds) >= FEWEST_SEEDS and self.ranks is None and metric not in COSTS:
            title = f"{shown(metric).name}: SD of the difference from {self.baseline} / {_DETECTABLE}"
            rows = [[run, *(self._seen(setting, run, metric) for setting in self.settings)] for run in others]
            tables.append(Table(["", *self.settings], rows, title))
        return [*tables, *self._tuned_to()]

    def apart(self) -> Iterator[tuple[str, str, int, float, float]]:
        """Setting, run, seed, value and the other seeds' mean, where a seed lies ten of their SDs from the others."""
        for setting, runs in self.values.items():
            for run, metrics in runs.items():
                values = metrics[self.ranked]
                for seed, value in zip(self.seeds, values, strict=True):
                    others = [other for of, other in zip(self.seeds, values, strict=True) if of != seed]
                    known = len(others) >= FEWEST_SEEDS and all(map(math.isfinite, [value, *others]))
                    if known and abs(value - statistics.fmean(others)) > _APART * statistics.stdev(others) > 0:
                        yield setting, run, seed, value, statistics.fmean(others)

    def _tuned_to(self) -> list[Table]:
        heads = ["", "learning rate", "parameter", self._tuned_by.name, "tried"]
        tables = []
        for setting, runs in self.tuned.items():
            rows = [
                [
                    run,
                    f"{one['learning_rate']:g}",
                    one["parameter"] or "–",
                    self._score(one["score"]),
                    f"{one['tried']}{', the best at an edge' if one['at_edge'] else ''}",
                ]
                for run, one in runs.items()
            ]
            where = f": {setting}" if setting else ""
            tables.append(Table(heads, rows, f"Tuned to{where}"))
            rates = sorted({rate for one in runs.values() for rate in one["by_rate"]}, key=float)
            tried = [
                [run, *(self._score(one["by_rate"][rate]) if rate in one["by_rate"] else "–" for rate in rates)]
                for run, one in runs.items()
            ]
            title = f"{self._tuned_by.title} at each learning rate, with the best parameter{where}"
            tables.append(Table(["", *rates], tried, title))
        return tables

    @property
    def _tuned_by(self) -> Metric:
        return shown((self.config.get("tuning") or {}).get("score", "val_accuracy"))

    def _score(self, score: float | None) -> str:
        """The mean of a validation score; None or infinite where every candidate diverged."""
        unit = self._tuned_by
        if score is None or not math.isfinite(score):
            return "diverged"
        return f"{unit.factor * score:.{unit.digits}f}"

    def _at_each_rate(self) -> list[Table]:
        if self.learning_rates is None:
            return []
        rates = self.learning_rates
        rows = []
        for run in self.runs:
            diverged = zip(rates.intervals(run), rates.diverged(run), strict=True)
            rows.append([run, *(f"{spread(one, 'nll')}{f', {count}×' if count else ''}" for one, count in diverged)])
        return [Table(["", *(f"{rate:g}" for rate in rates.rates)], rows, "NLL at each learning rate")]

    def page(self) -> Page:
        """The tables, also as LaTeX, the verdicts on the claims, and the figures; every number as CSV and JSON."""
        judged = self.judged()
        claims = [
            "\n".join(
                [
                    f"- **{str(one.verdict).capitalize()}.** {one.claim.claim} ({one.claim.source})",
                    *(f"  - {line}" for line in _said_of(one)),
                ]
            )
            for one in judged
        ]
        rates, kept = self.learning_rates, ("title", "command", "values", "claims", "learning_rates")
        tables, figures = self.tables(), self._figures()
        lines = list(self._lines())
        latex = "\n".join(["% \\usepackage{booktabs}", f"% {self.note}", *(table.latex() for table in tables)])
        return Page(
            title=self.title,
            command=self.command,
            body=[
                *tables,
                self.note,
                *([] if self.ranks is None else [str(self.ranks)]),
                self.caveat,
                "\n".join(f"- {sentence}" for sentence in self.broken),
                "\n".join(claims),
                pictures(figures, between="\n"),
            ],
            said=[
                self.note,
                *([] if self.ranks is None else [str(self.ranks)]),
                *(
                    "\n  ".join([f"{one.verdict}: {one.claim.claim} ({one.claim.source})", *_said_of(one)])
                    for one in judged
                ),
                *(f"broke: {sentence}" for sentence in self.broken),
            ],
            numbers={
                **{name: value for name, value in asdict(self).items() if name not in kept},
                "learning_rates": None if rates is None else rates.to_json(),
                "claims": [
                    {**asdict(one.claim), "verdict": one.verdict._asdict(), "found": _said_of(one)} for one in judged
                ],
                "summary": lines,
                "values": self.values,
            },
            figures=figures,
            files={
                "comparison.tex": latex,
                "comparison.csv": Table(list(_LINE), [list(line.values()) for line in lines]).csv(),
                **({} if rates is None else {"learning_rates.csv": rates.table(self.seeds).csv()}),
            },
            name="comparison",
        )

    @classmethod
    def read(cls, path: Path) -> "Comparison":
        """The content of the page's JSON file, ``comparison.json``."""
        content = json.loads(path.read_text())
        names = {name for name in cls.__dataclass_fields__ if name in content}
        known = {name: content[name] for name in names}
        return cls(
            **{
                **known,
                "seeds": tuple(content["seeds"]),
                "learning_rates": LearningRates.from_json(content.get("learning_rates")),
                "columns": tuple(content["columns"]),
                "looks": tuple(content.get("looks", ())),
                "untested": tuple(content["untested"]),
                "claims": tuple(Claim.read(node) for node in content["claims"]),
                "values": _numbers(content["values"]),
            }
        )

    def _figures(self) -> dict[str, Callable[[], Figure]]:
        """How each figure is drawn, by the name of its file."""
        if self.learning_rates is not None:
            return {"learning_rates.png": self.learning_rates.figure} if any(self.learning_rates.whole.values()) else {}
        if (ranks := self.ranks) is not None:
            # A panel for each of so many settings would be too narrow to read.
            label = f"mean rank of {shown(self.ranked).plain}, {ranks.settings} settings"
            draw = partial(critical_difference, ranks.ranks, ranks.critical_difference, label=label)
            return {"critical_difference.png": draw}
        stages = {"accuracy": ["accuracy"], "ECE": ["ece", "calibrated_ece"]}
        main = "accuracy" if self._is_measured("accuracy") else self.claimed
        if main != "accuracy":
            stages = {shown(main).plain: [main]}
        sign = " (%)" if shown(main).sign else ""
        if len(self.settings) == 1:
            (setting,) = self.settings
            panels = {f"{name}{sign}": self._panel(setting, metrics) for name, metrics in stages.items()}
            intervals = {"intervals.png": partial(seed_intervals, panels, stages=_STAGES, reference=self.baseline)}
            differing = self.effects(setting, self.claimed)
            significant = [run for run, p in self.p_values(setting, self.claimed).items() if p < self.level]
            if any(map(math.isfinite, (one.mean for one in differing.values()))):
                unit = shown(self.claimed)
                label = f"{unit.plain} against {self.baseline}{', points' if unit.sign else ''}"
                note = f"mean and 95% interval, {len(self.seeds)} seeds\nin colour: Holm's p below {self.level:g}"
                intervals["effects.png"] = partial(
                    effects,
                    differing,
                    label=label,
                    note=note,
                    better="higher" if more_is_better(self.claimed) else "lower",
                    digits=1 if unit.sign else unit.digits,
                    significant=significant,
                )
        else:
            intervals = {
                f"intervals_{metrics[0]}.png": partial(
                    seed_intervals,
                    {setting: self._panel(setting, metrics) for setting in self.settings},
                    stages=_STAGES[: len(metrics)],
                    reference=self.baseline,
                    label=f"{name}{sign}",
                )
                for name, metrics in stages.items()
            }
        if not more_is_better(main):
            return {**intervals}
        costs = {
            setting: {
                run: (self.interval(setting, run, "seconds").mean, *self._in_unit(setting, run, main))
                for run in self.runs
            }
            for setting in self.settings
        }
        cost = partial(
            accuracy_against_cost,
            costs,
            reference=self.baseline,
            cost="seconds of training",
            accuracy=f"{shown(main).plain}{sign}",
        )
        return {**intervals, "accuracy_against_cost.png": cost}

    def _panel(self, setting: str, metrics: Sequence[str]) -> dict[str, list[SeedInterval]]:
        return {run: [self._in_unit(setting, run, metric) for metric in metrics] for run in self.runs}

    def _in_unit(self, setting: str, run: str, metric: str) -> SeedInterval:
        return SeedInterval(*(shown(metric).factor * number for number in self.interval(setting, run, metric)))

    def _is_measured(self, metric: str) -> bool:
        """Whether some run has a number of it."""
        of = (numbers.get(metric, ()) for runs in self.values.values() for numbers in runs.values())
        return any(math.isfinite(number) for numbers in of for number in numbers)

    def _cell(self, setting: str, run: str, metric: str) -> str:
        text = spread(seed_interval(self.values[setting][run][metric]), metric)
        if metric in COSTS or run == self.baseline:
            return text
        return f"{text}*" if self.p_values(setting, metric)[run] < self.level else text

    def _difference(self, setting: str, run: str, metric: str, p_values: dict[str, float]) -> str:
        if run == self.baseline:
            return ""
        text = spread(seed_interval(self.differences(setting, run, metric)), metric, difference=True)
        return text if math.isnan(p_values[run]) else f"{text}, {p_value(p_values[run])}"

    def _deviation(self, setting: str, run: str, metric: str) -> str:
        differences, unit = self.differences(setting, run, metric), shown(metric)
        if run == self.baseline or not testable(differences):
            return ""
        return f"{unit.factor * statistics.stdev(differences):.{unit.digits}f}"

    def _seen(self, setting: str, run: str, metric: str) -> str:
        """The deviation of a difference, and the smallest that would probably show; empty where nothing is tested."""
        return " / ".join(filter(None, (self._deviation(setting, run, metric), self._power(setting, run, metric))))

    def _power(self, setting: str, run: str, metric: str) -> str:
        """The smallest difference that this number of seeds would probably show; a dash if there is none."""
        own = run == self.baseline
        smallest = math.nan if own else detectable(self.differences(setting, run, metric), level=self.level)
        unit = shown(metric)
        if math.isnan(smallest):
            return ""
        return f"{unit.factor * smallest:.{unit.digits}f}" if smallest <= unit.most - unit.least else "–"

    def _lines(self) -> Iterator[dict[str, Any]]:
        for setting in self.settings:
            for metric in self.metrics:
                p_values = self.p_values(setting, metric)
                for run in self.runs:
                    interval = self.interval(setting, run, metric)
                    differences = self.differences(setting, run, metric)
                    own = run == self.baseline
                    difference = NO_INTERVAL if own else seed_interval(differences)
                    numbers = (
                        setting,
                        run,
                        metric,
                        *interval,
                        *shown(metric).within(difference, difference=True),
                        math.nan if own else paired_t_test(differences),
                        math.nan if own else p_values[run],
                        math.nan if own else detectable(differences, level=self.level),
                        len(self.seeds),
                    )
                    yield finite(dict(zip(_LINE, numbers, strict=True)))


# What the CSV file tells of a setting, run and metric.
_LINE = (
    *("setting", "run", "metric", "mean", "low_95", "high_95"),
    *("difference", "difference_low_95", "difference_high_95", "p", "p_holm", "power_80", "seeds"),
)
_STAGES = ("as trained", "after temperature scaling")


def _said_of(judged: Judged) -> list[str]:
    """The findings on a claim: a line for each difference and each guard."""
    guards = [f"{'guard holds' if guard.holds else 'guard fails'}: {guard.sentence}" for guard in judged.guards]
    return [*judged.told(), *guards]


def _in(setting: str) -> str:
    return f" in {setting}" if setting else ""


def _numbers(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _numbers(value) for name, value in values.items()}
    return [math.nan if value is None else value for value in values]
