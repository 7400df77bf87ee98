"""Fits a calibrator to logits, and evaluates metrics before and after it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from lightning_losses.calibrators import Calibrator, ConformalSets
from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.experiments.kinds.conformal import Conformal, conformal
from lightning_losses.experiments.kinds.logits_file import Labelled
from lightning_losses.experiments.kinds.logits_source import Split, check_checkpoint, checkpoint_split, file_split
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.page import Page, Table
from lightning_losses.metrics import Interval, calibration_intervals, calibration_summary
from lightning_losses.numerics.rows import labelled_rows
from lightning_losses.plots.reliability_diagram import reliability_diagram
from lightning_losses.plots.risk_coverage import risk_coverage

# Shown in percent, as in the pictures.
_PERCENT = ("accuracy", "ece", "adaptive_ece", "debiased_rmsce", "mce", "classwise_ece")


@dataclass(frozen=True)
class Part:
    """The metrics of one set of predictions, each with its interval."""

    values: dict[str, Tensor]
    intervals: dict[str, Interval]

    def cell(self, name: str) -> str:
        """A metric as a cell of the table."""
        factor, digits = (100, 2) if name in _PERCENT else (1, 4)
        value, *ends = (f"{factor * float(number):.{digits}f}" for number in (self.values[name], *self.intervals[name]))
        return value if math.isnan(float(self.intervals[name].low)) else f"{value} [{', '.join(ends)}]"

    def plain(self) -> dict[str, dict[str, float]]:
        """The values and the ends of their intervals."""
        return {
            name: {
                "value": float(value),
                **{end: float(at) for end, at in self.intervals[name]._asdict().items() if not math.isnan(float(at))},
            }
            for name, value in self.values.items()
        }


@dataclass(frozen=True)
class Calibration:
    """A fitted calibrator and its effect on test data.

    Attributes:
        calibrator: the fitted calibrator.
        split: the data for fitting and for evaluation.
        calibrated: the calibrated test logits.
        before: the metrics of the test logits.
        after: the metrics of the calibrated logits.
        num_bins: number of bins of every binned error.
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
    def note(self) -> str:
        """The explanation of the table's cells."""
        return (
            f"Fitted on {len(self.split.fit.target)} samples, evaluated on {len(self.split.test.target)}; "
            f"{self.num_bins} bins; {100 * self.level:g}% intervals. The interval of a binned error "
            "begins at 0 unless calibration is rejected; the largest error (mce) has no valid interval."
        )

    def page(self, command: str) -> Page:
        """A table and two pictures."""
        logits, target = self.calibrator.original(self.split.test.logits), self.split.test.target
        name = type(self.calibrator).__name__
        rows = [
            (f"{metric}, %" if metric in _PERCENT else metric, self.before.cell(metric), self.after.cell(metric))
            for metric in self.before.values
        ]
        return Page(
            title=f"{name} on {self.split.name}",
            command=command,
            body=[
                Table(("metric", "before", "after"), rows),
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
    """Fit a calibrator on one part of a split, and evaluate the other before and after it.

    Rows whose target is the calibrator's `ignore_index` are left out of both.

    Raises:
        ValueError: no row has a target.
    """
    split = _with_targets(calibrator, split)
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


def _with_targets(calibrator: Calibrator | ConformalSets, split: Split) -> Split:
    return split._replace(fit=_with_target(calibrator, split.fit), test=_with_target(calibrator, split.test))


def _with_target(calibrator: Calibrator | ConformalSets, part: Labelled) -> Labelled:
    kept = labelled_rows(part.target, calibrator.ignore_index)
    if not bool(kept.any()):
        raise ValueError(
            f"calibrate: {len(kept)} rows came, none with a target but {calibrator.ignore_index}, which is ignored; "
            "give some with class indices to fit on, and some to evaluate."
        )
    logits = part.logits[kept]
    # They have no softmax, and every class would be in their conformal sets.
    wrong = int((~logits.logsumexp(dim=-1).isfinite()).reshape(len(logits), -1).any(dim=1).sum())
    if wrong:
        raise ValueError(
            f"calibrate: {wrong} of {len(logits)} rows of logits hold NaN, +inf or nothing but -inf; leave them out, "
            f"or give them the target {calibrator.ignore_index}, which is ignored."
        )
    return Labelled(logits, part.target[kept])


class LogitCalibration(Experiment):
    """Fits a calibrator, or conformal sets, to logits from a file or a checkpoint, and evaluates them on others."""

    def rehearse(self) -> None:
        """Read the logits of a file, or look for the checkpoint, so that an error shows before anything is fitted."""
        if self.config.checkpoint is None or self.config.logits is not None:
            self.split(())
        else:
            check_checkpoint(Path(self.config.checkpoint).expanduser())

    def perform(self, folder: Path) -> Calibration | Conformal:
        """Fit, evaluate, and write the results into the run's folder."""
        config = self.config
        calibrator = instantiate(config.calibrator)
        split = self.split(calibrator.views)
        console = Console(soft_wrap=True, highlight=False, markup=False)
        if split.taken:
            console.print(split.taken)
        intervals = {"level": config.level, "resamples": config.resamples, "seed": config.seed}
        if isinstance(calibrator, ConformalSets):
            calibration: Calibration | Conformal = conformal(calibrator, _with_targets(calibrator, split), **intervals)
        else:
            calibration = calibrate(calibrator, split, num_bins=config.num_bins, **intervals)
        page = calibration.page(self.command)
        page.write(folder)
        calibrator.save(folder / "calibrator.safetensors")
        page.show()
        console.print(f"The calibrator, the table and the pictures are in {folder}")
        return calibration

    def split(self, views: Sequence[str]) -> Split:
        """The logits to fit on and those to evaluate on, from the file or the checkpoint that the settings name."""
        config = self.config
        if (config.logits is None) == (config.checkpoint is None):
            raise ValueError(
                "calibrate: give one of logits=FILE (.npz, .safetensors, .csv, .parquet) and checkpoint=FILE (.ckpt)."
            )
        if config.checkpoint is not None:
            return checkpoint_split(Path(config.checkpoint).expanduser(), views)
        test = None if config.test_logits is None else Path(config.test_logits).expanduser()
        return file_split(Path(config.logits).expanduser(), test, fit_fraction=config.fit_fraction, seed=config.seed)
