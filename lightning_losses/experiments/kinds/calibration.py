"""What the calibrate recipe finds: a fitted calibrator, and the metrics before and after it."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_losses.calibrators import Calibrator
from lightning_losses.experiments.kinds.logits_source import Split
from lightning_losses.metrics import Interval, calibration_intervals, calibration_summary
from lightning_losses.plots.reliability_diagram import reliability_diagram
from lightning_losses.plots.risk_coverage import risk_coverage
from lightning_losses.plots.style import save_figure


@dataclass(frozen=True)
class Part:
    """The metrics of one set of predictions, each with its interval."""

    values: dict[str, Tensor]
    intervals: dict[str, Interval]

    def cell(self, name: str) -> str:
        """A metric as the table shows it."""
        low, high = self.intervals[name]
        return f"{float(self.values[name]):.4f} [{float(low):.4f}, {float(high):.4f}]"

    def plain(self) -> dict[str, dict[str, float | None]]:
        """The values and the ends of their intervals, for JSON, where what is not finite is null."""
        return {
            name: {
                key: number if math.isfinite(number) else None
                for key, number in (
                    ("value", float(value)),
                    ("low", float(self.intervals[name].low)),
                    ("high", float(self.intervals[name].high)),
                )
            }
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

    def write(self, folder: Path, command: str) -> None:
        """Write ``calibrator.safetensors``, ``calibration.json``, ``calibration.md`` and the pictures."""
        folder.mkdir(parents=True, exist_ok=True)
        self.calibrator.save(folder / "calibrator.safetensors")
        content: dict[str, Any] = {
            "title": self.title,
            "command": command,
            "calibrator": type(self.calibrator).__name__,
            "options": self.calibrator.options,
            "fit_samples": len(self.split.fit.target),
            "test_samples": len(self.split.test.target),
            "num_bins": self.num_bins,
            "level": self.level,
            "before": self.before.plain(),
            "after": self.after.plain(),
        }
        (folder / "calibration.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        lines = [
            f"# {self.title}",
            "",
            f"`{command}`",
            "",
            "| metric | before | after |",
            "|---|---:|---:|",
            *(f"| {' | '.join(row)} |" for row in self.rows()),
            "",
            self.note,
            "",
            "![reliability](reliability.png) ![risk and coverage](risk_coverage.png)",
            "",
        ]
        (folder / "calibration.md").write_text("\n".join(lines))
        logits, target = self.calibrator.original(self.split.test.logits), self.split.test.target
        save_figure(
            reliability_diagram(
                logits,
                target,
                inputs="logits",
                after=self.calibrated,
                num_bins=self.num_bins,
                level=self.level,
                title=type(self.calibrator).__name__,
            ),
            folder / "reliability.png",
        )
        save_figure(
            risk_coverage({"before": logits, "after": self.calibrated}, target, inputs="logits"),
            folder / "risk_coverage.png",
        )

    def show(self) -> None:
        """Print the table."""
        table = Table(
            title=self.title,
            title_justify="left",
            title_style="bold",
            caption=self.note,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
        )
        for name in ("metric", "before", "after"):
            table.add_column(name, justify="left" if name == "metric" else "right", no_wrap=True)
        for row in self.rows():
            table.add_row(*row)
        Console(width=max(Console().width, 80)).print(table)


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
