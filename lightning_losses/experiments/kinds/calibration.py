"""What the calibrate recipe finds: a fitted calibrator, and the metrics before and after it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_losses.calibrators import Calibrator
from lightning_losses.experiments.kinds.logits_source import Split
from lightning_losses.experiments.page import Page, Table
from lightning_losses.metrics import Interval, calibration_intervals, calibration_summary
from lightning_losses.plots.reliability_diagram import reliability_diagram
from lightning_losses.plots.risk_coverage import risk_coverage


@dataclass(frozen=True)
class Part:
    """The metrics of one set of predictions, each with its interval."""

    values: dict[str, Tensor]
    intervals: dict[str, Interval]

    def cell(self, name: str) -> str:
        """A metric as the table shows it."""
        low, high = self.intervals[name]
        return f"{float(self.values[name]):.4f} [{float(low):.4f}, {float(high):.4f}]"

    def plain(self) -> dict[str, dict[str, float]]:
        """The values and the ends of their intervals."""
        return {
            name: {"value": float(value), **{end: float(at) for end, at in self.intervals[name]._asdict().items()}}
            for name, value in self.values.items()
        }


@dataclass(frozen=True)
class Calibration:
    """A fitted calibrator and what it does to test data.

    Attributes:
        calibrator: fitted.
        split: what it was fitted on, and what it is evaluated on.
        calibrated: the test logits after it.
        before: the metrics of the test logits.
        after: those of the calibrated ones.
        num_bins: of every binned error.
        level: the confidence of the intervals.
    """

    calibrator: Calibrator
    split: Split
    calibrated: Tensor
    before: Part
    after: Part
    num_bins: int
    level: float

    @property
    def title(self) -> str:
        """One line."""
        return f"{type(self.calibrator).__name__} on {self.split.name}"

    @property
    def note(self) -> str:
        """What the table's cells mean."""
        return (
            f"Fitted on {len(self.split.fit.target)} samples, evaluated on {len(self.split.test.target)}; "
            f"{self.num_bins} bins; {100 * self.level:g}% bootstrap intervals, corrected for the upward "
            "bias of binned errors: they may lie below the value."
        )

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """The table's lines."""
        for name in self.before.values:
            yield name, self.before.cell(name), self.after.cell(name)

    def page(self, command: str) -> Page:
        """A table and two pictures."""
        logits, target = self.calibrator.original(self.split.test.logits), self.split.test.target
        name = type(self.calibrator).__name__
        return Page(
            title=self.title,
            command=command,
            body=[
                Table(("metric", "before", "after"), list(self.rows())),
                self.note,
                "![reliability](reliability.png) ![risk and coverage](risk_coverage.png)",
            ],
            said=[self.note],
            numbers={
                "calibrator": name,
                "options": self.calibrator.options,
                "fit_samples": len(self.split.fit.target),
                "test_samples": len(target),
                "num_bins": self.num_bins,
                "level": self.level,
                "before": self.before.plain(),
                "after": self.after.plain(),
            },
            figures={
                "reliability.png": lambda: reliability_diagram(
                    logits,
                    target,
                    inputs="logits",
                    after=self.calibrated,
                    num_bins=self.num_bins,
                    level=self.level,
                    title=name,
                ),
                "risk_coverage.png": lambda: risk_coverage(
                    {"before": logits, "after": self.calibrated}, target, inputs="logits"
                ),
            },
            name="calibration",
        )


def calibrate(
    calibrator: Calibrator,
    split: Split,
    *,
    num_bins: int = 15,
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> Calibration:
    """Fit a calibrator on one part of a split, and evaluate the other before and after it."""
    calibrator.fit(split.fit.logits, split.fit.target)
    logits, target = split.test
    with torch.no_grad():
        calibrated = calibrator(logits)
    logits = calibrator.original(logits)

    def part(values: Tensor) -> Part:
        return Part(
            calibration_summary(values, target, inputs="logits", num_bins=num_bins),
            calibration_intervals(
                values, target, inputs="logits", num_bins=num_bins, level=level, resamples=resamples, seed=seed
            ),
        )

    return Calibration(calibrator, split, calibrated, part(logits), part(calibrated), num_bins, level)
