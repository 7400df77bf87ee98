"""The report of a run: a table, pictures, and the numbers behind them, for people and for programs."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lightning_losses.experiments.training.evaluation import Evaluation
from lightning_losses.plots.curves import loss_curves, validation_curves
from lightning_losses.plots.reliability_diagram import reliability_diagram
from lightning_losses.plots.style import save_figure

COLUMNS = ("network", "accuracy %", "NLL", "Brier", "ECE %", "T", "parameters", "seconds")
# Wide enough for every cell, whatever the terminal says.
_WIDTH = 130


@dataclass(frozen=True)
class Report:
    """What a run found.

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

    def write(self, folder: Path) -> list[Path]:
        """Write ``report.json``, ``report.md`` and the pictures into a folder; the pictures' paths."""
        folder.mkdir(parents=True, exist_ok=True)
        pictures = self._draw(folder)
        _write(folder / "report.json", json.dumps(_plain(self.content(pictures)), indent=1, allow_nan=False) + "\n")
        _write(folder / "report.md", self.markdown(pictures))
        return pictures

    def content(self, pictures: Sequence[Path] = ()) -> dict[str, Any]:
        """Everything that ``report.json`` holds."""
        return {
            "title": self.title,
            "command": self.command,
            "seconds": self.seconds,
            "test_samples": len(self.evaluations[0].target),
            "networks": [evaluation.summary() for evaluation in self.evaluations],
            "pictures": [path.name for path in pictures],
            "settings": self.settings,
        }

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

    def show(self) -> None:
        """Print the table, whole, however narrow the terminal says it is."""
        table = Table(
            title=self.title,
            title_justify="left",
            title_style="bold",
            caption=self.note(),
            caption_justify="left",
            box=box.SIMPLE_HEAD,
        )
        for name in COLUMNS:
            table.add_column(name, justify="left" if name == "network" else "right", no_wrap=True)
        for row in self.rows():
            table.add_row(*row)
        Console(width=max(Console().width, _WIDTH)).print(table)

    def note(self) -> str:
        """What the table's cells mean."""
        samples = len(self.evaluations[0].target)
        errors = [
            math.sqrt(evaluation.before.accuracy * (1 - evaluation.before.accuracy) / samples)
            for evaluation in self.evaluations
        ]
        return (
            f"{samples} test samples; before → after scaling by the temperature T, fitted on the validation "
            f"split. Accuracy's standard error is at most {100 * max(errors):.1f} points."
        )

    def markdown(self, pictures: Sequence[Path]) -> str:
        """The text of ``report.md``."""
        lines = [
            f"# {self.title}",
            "",
            f"`{self.command}`",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|---" + "|---:" * (len(COLUMNS) - 1) + "|",
        ]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows()]
        lines += [
            "",
            f"{self.note()} NLL is in nats; ECE has 15 bins of equal width; seconds are those of training, "
            "of a kept network those that it took when it was trained. The baseline is the student's network, "
            "from the same first weights, without a teacher. The intervals in the diagrams are corrected for the "
            "upward bias of a binned ECE (basic bootstrap), so that one may end below its estimate.",
            "",
        ]
        lines += [f"![{path.stem}]({path.name})\n" for path in pictures if not path.stem.startswith("reliability")]
        lines += [
            " ".join(
                f'<img src="{path.name}" alt="{path.stem}" width="32%">'
                for path in pictures
                if path.stem.startswith("reliability")
            ),
            "",
        ]
        return "\n".join(lines)

    def _draw(self, folder: Path) -> list[Path]:
        histories = {
            evaluation.trained.label: evaluation.trained.history
            for evaluation in self.evaluations
            if evaluation.trained.history
        }
        pictures = [
            save_figure(validation_curves(histories), folder / "validation.png"),
            save_figure(loss_curves(histories), folder / "losses.png"),
        ]
        for evaluation in self.evaluations:
            figure = reliability_diagram(
                evaluation.logits,
                evaluation.target,
                inputs="logits",
                after=evaluation.calibrated_logits,
                title=evaluation.trained.label,
                names=("uncalibrated", f"T = {evaluation.temperature:.2f}"),
            )
            pictures.append(save_figure(figure, folder / f"reliability_{evaluation.trained.name}.png"))
        return pictures


def _pair(before: float, after: float, digits: int) -> str:
    return f"{before:.{digits}f} → {after:.{digits}f}"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: what diverged is null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
