"""The report of trained networks: a table, pictures, and the numbers behind them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from lightning_losses.experiments.page import Page, Table, pictures
from lightning_losses.experiments.training.evaluation import Evaluation, Scores
from lightning_losses.plots.curves import loss_curves, validation_curves
from lightning_losses.plots.reliability_diagram import reliability_diagram

# Of `Report.scores`.
SCORE_NAMES = (
    *(f"{part}/{field.name}" for part in ("test", "calibration") for field in fields(Scores)),
    "calibration/temperature",
)
COLUMNS = ("network", "accuracy %", "NLL", "Brier", "ECE %", "T", "parameters", "seconds")


@dataclass(frozen=True)
class Report:
    """The results of a run.

    Attributes:
        title: one line.
        command: what starts the run again.
        evaluations: the networks, in the order of the table's lines.
        settings: the run's whole configuration, as plain values.
        seconds: of the whole run.
    """

    title: str
    command: str
    evaluations: Sequence[Evaluation]
    settings: dict[str, Any]
    seconds: float

    def page(self) -> Page:
        """A table, the curves, and a reliability diagram of each network."""
        histories = {
            evaluation.trained.label: evaluation.trained.history
            for evaluation in self.evaluations
            if evaluation.trained.history
        }
        diagrams = {
            f"reliability_{evaluation.trained.name}.png": partial(_reliability, evaluation)
            for evaluation in self.evaluations
        }
        return Page(
            title=self.title,
            command=self.command,
            body=[
                Table(COLUMNS, self.rows()),
                f"{self.note()} NLL is in nats; ECE has 15 bins of equal width; seconds are those of training, "
                "of a kept network those that it took when it was trained. The baseline is the student's network, "
                "from the same first weights, without a teacher. An interval in the diagrams begins at 0 "
                "unless calibration is rejected.",
                pictures(["validation.png", "losses.png"]),
                " ".join(f'<img src="{name}" alt="{name.removesuffix(".png")}" width="32%">' for name in diagrams),
            ],
            said=[self.note()],
            numbers={
                "seconds": self.seconds,
                "test_samples": len(self.evaluations[0].target),
                "networks": [evaluation.summary() for evaluation in self.evaluations],
            },
            settings=self.settings,
            figures={
                "validation.png": partial(validation_curves, histories),
                "losses.png": partial(loss_curves, histories),
                **diagrams,
            },
        )

    def scores(self) -> dict[str, float]:
        """The last network's numbers: ``test/...`` as trained, ``calibration/...`` after temperature scaling."""
        student = self.evaluations[-1]
        return {
            **{f"test/{name}": value for name, value in asdict(student.before).items()},
            **{f"calibration/{name}": value for name, value in asdict(student.after).items()},
            "calibration/temperature": student.temperature,
        }

    def rows(self) -> list[list[str]]:
        """The table's cells, a line a network; pairs are before and after calibration."""
        return [
            [
                evaluation.trained.label,
                f"{100 * evaluation.before.accuracy:.1f}",
                _pair(evaluation.before.nll, evaluation.after.nll, 3),
                _pair(evaluation.before.brier, evaluation.after.brier, 3),
                _pair(100 * evaluation.before.ece, 100 * evaluation.after.ece, 1),
                f"{evaluation.temperature:.2f}",
                f"{evaluation.parameters:,}",
                f"{evaluation.trained.seconds:.1f}" + (" (kept)" if evaluation.trained.kept else ""),
            ]
            for evaluation in self.evaluations
        ]

    def note(self) -> str:
        """The meaning of the table's cells."""
        samples = len(self.evaluations[0].target)
        errors = [
            math.sqrt(evaluation.before.accuracy * (1 - evaluation.before.accuracy) / samples)
            for evaluation in self.evaluations
        ]
        return (
            f"{samples} test samples; before → after scaling by the temperature T, fitted on the validation "
            f"split. Accuracy's standard error is at most {100 * max(errors):.1f} points."
        )


def _reliability(evaluation: Evaluation) -> Figure:
    return reliability_diagram(
        evaluation.logits,
        evaluation.target,
        inputs="logits",
        after=evaluation.calibrated_logits,
        title=evaluation.trained.label,
        names=("uncalibrated", f"T = {evaluation.temperature:.2f}"),
    )


def _pair(before: float, after: float, digits: int) -> str:
    return f"{before:.{digits}f} → {after:.{digits}f}"
