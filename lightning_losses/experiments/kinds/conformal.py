"""Fits conformal sets to logits, and reports their coverage and their size on others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lightning_losses.calibrators import ConformalSets
from lightning_losses.experiments.kinds.logits_source import Split
from lightning_losses.experiments.page import Page, Table
from lightning_losses.metrics import Interval, PredictionSetMetrics, bootstrap_interval
from lightning_losses.metrics.bootstrap import proportion_interval
from lightning_losses.plots.coverage_against_alpha import coverage_against_alpha

_PERCENT = ("coverage", "empty", "worst_class_coverage", "size_stratified_violation")


@dataclass(frozen=True)
class SetScores:
    """What sets came to on test data.

    Attributes:
        values: those of `PredictionSetMetrics`, by name.
        intervals: of the coverage and of the size.
        sets: [n, C] the sets themselves.
    """

    values: dict[str, float]
    intervals: dict[str, Interval]
    sets: Bool[Tensor, "rows classes"]

    def cell(self, name: str) -> str:
        """A measure as a cell of the table."""
        factor, digits = (100, 2) if name in _PERCENT else (1, 3)
        value = self.values[name]
        if math.isnan(value):
            return "–"
        shown = f"{factor * value:.{digits}f}"
        if name not in self.intervals or math.isnan(float(self.intervals[name].low)):
            return shown
        low, high = (f"{factor * float(end):.{digits}f}" for end in self.intervals[name])
        return f"{shown} [{low}, {high}]"

    def plain(self) -> dict[str, dict[str, float]]:
        """The values and the ends of their intervals."""
        ends = {name: {"low": float(i.low), "high": float(i.high)} for name, i in self.intervals.items()}
        return {name: {"value": value, **ends.get(name, {})} for name, value in self.values.items()}


def set_scores(
    fitted: ConformalSets,
    logits: Tensor,
    target: Int[Tensor, " rows"],
    *,
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> SetScores:
    """The coverage and the size of a fitted method's sets on test logits, with intervals.

    Args:
        fitted: the method.
        logits: [n, C] of rows that the fit didn't see.
        target: [n] class indices.
        level: the confidence of the intervals: Wilson's of the coverage, a bootstrap's of the size.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    uniforms = fitted.uniforms_of(len(target))
    sets = fitted(logits, uniforms=uniforms)
    metric = PredictionSetMetrics(sets.shape[-1], fitted.alpha)
    metric.update(sets, target)
    values = {name: float(value) for name, value in metric.compute().items()}
    sizes = sets.sum(dim=-1).double()
    intervals = {
        "coverage": proportion_interval(torch.tensor(values["coverage"]), len(target), level),
        "set_size": bootstrap_interval(
            lambda rows: rows.mean(dim=-1), sizes, level=level, resamples=resamples, seed=seed, batched=True
        ),
    }
    return SetScores(values, intervals, sets)


@dataclass(frozen=True)
class Conformal:
    """Fitted conformal sets and what they came to.

    Attributes:
        calibrator: the fitted method.
        split: the data for fitting and for evaluation.
        scores: of the test data.
        level: the confidence of the intervals.
    """

    calibrator: ConformalSets
    split: Split
    scores: SetScores
    level: float

    @property
    def note(self) -> str:
        """The explanation of the table's cells."""
        samples, rows = len(self.split.fit.target), len(self.split.test.target)
        wanted = 100 * (1 - self.calibrator.alpha)
        return (
            f"Fitted on {samples} samples, evaluated on {rows}; {wanted:g} % were asked for; {100 * self.level:g}% "
            "intervals over the test rows. Over fits of so many samples coverage is spread too: the grey range in the "
            "picture holds 95 % of them. A class, or a size of sets, is looked at by itself from 20 rows on."
        )

    def page(self, command: str) -> Page:
        """A table, a picture, and the sets as a file."""
        name, target = type(self.calibrator).__name__, self.split.test.target
        rows = [
            (f"{measure}, %" if measure in _PERCENT else measure, self.scores.cell(measure))
            for measure in self.scores.values
        ]
        return Page(
            title=f"{name} on {self.split.name}",
            command=command,
            body=[Table(("measure", "value"), rows), self.note, "![coverage](coverage.png)"],
            said=[self.note],
            numbers={
                "calibrator": name,
                "options": self.calibrator.options,
                "fit_samples": len(self.split.fit.target),
                "test_samples": len(target),
                "level": self.level,
                "scores": self.scores.plain(),
                "thresholds": self.calibrator.threshold().tolist(),
            },
            figures={
                "coverage.png": lambda: coverage_against_alpha(
                    {name: self.calibrator}, self.split.test.logits, target, title=self.split.name
                )
            },
            files={"sets.csv": sets_table(self.scores.sets, target).csv()},
            name="calibration",
        )


def sets_table(sets: Bool[Tensor, "rows classes"], target: Int[Tensor, " rows"]) -> Table:
    """Each row's class, whether its set holds it, and the set.

    Example:
        >>> sets_table(torch.tensor([[True, False, True]]), torch.tensor([1])).rows
        [[0, 1, False, 2, '0 2']]
    """
    rows: Sequence[Sequence[object]] = [
        [place, int(label), bool(of[label]), int(of.sum()), " ".join(map(str, of.nonzero().flatten().tolist()))]
        for place, (of, label) in enumerate(zip(sets, target, strict=True))
    ]
    return Table(["row", "target", "covered", "size", "set"], rows)


def conformal(
    calibrator: ConformalSets, split: Split, *, level: float = 0.95, resamples: int = 200, seed: int = 0
) -> Conformal:
    """Fit conformal sets on one part of a split, and evaluate them on the other."""
    calibrator.fit(split.fit.logits, split.fit.target)
    scores = set_scores(calibrator, *split.test, level=level, resamples=resamples, seed=seed)
    return Conformal(calibrator, split, scores, level)
