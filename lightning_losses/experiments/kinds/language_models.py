"""Trains language models, and reports nats per byte, speed and memory."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from lightning.pytorch.loggers import Logger
from torch import nn

from lightning_losses.data.stdlib_text import StdlibText
from lightning_losses.experiments.kinds.classification import StudentExperiment, trainings
from lightning_losses.experiments.loggers.loggers import log_pictures, log_scores, log_table, plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.evaluation import nats_per_byte, predicted
from lightning_losses.experiments.training.training import Trained, Training
from lightning_losses.plots.curves import language_model_curves

COLUMNS = (
    "network",
    "val nats/byte",
    "val bits/byte",
    "test nats/byte",
    "tokens/s",
    "peak MiB",
    "parameters",
    "seconds",
)


@dataclass(frozen=True)
class LanguageScores:
    """A trained language model and its scores.

    Attributes:
        trained: the network and its history.
        val: cross-entropy on the validation split, in nats per byte.
        test: the same on the test split.
    """

    trained: Trained
    val: float
    test: float

    @property
    def tokens_per_second(self) -> float:
        """Training speed: the median over the epochs; NaN for a network that was not trained here."""
        return statistics.median(self.trained.history.get("train/tokens_per_second", [math.nan]))

    @property
    def peak_memory(self) -> float:
        """Peak memory of training in bytes; NaN for a network that was not trained here."""
        return max(self.trained.history.get("train/peak_memory", [math.nan]))

    @property
    def parameters(self) -> int:
        """The number of the network's parameters."""
        return sum(parameter.numel() for parameter in self.trained.network.parameters())

    def cells(self) -> list[str]:
        """The table's line."""
        return [
            self.trained.label,
            f"{self.val:.4f}",
            f"{self.val / math.log(2):.4f}",
            f"{self.test:.4f}",
            _count(self.tokens_per_second),
            _count(self.peak_memory / 2**20),
            f"{self.parameters:,}",
            f"{self.trained.seconds:.1f}" + (" (kept)" if self.trained.kept else ""),
        ]

    def summary(self) -> dict[str, Any]:
        """The plain values of the report."""
        return {
            "name": self.trained.name,
            "label": self.trained.label,
            "val_nats_per_byte": self.val,
            "val_bits_per_byte": self.val / math.log(2),
            "test_nats_per_byte": self.test,
            "tokens_per_second": self.tokens_per_second,
            "peak_memory": self.peak_memory,
            "parameters": self.parameters,
            "seconds": self.trained.seconds,
            "kept": self.trained.kept,
            "history": self.trained.history,
        }


@dataclass(frozen=True)
class LanguageReport:
    """The report of a run.

    Attributes:
        title: the title, one line.
        command: the command that starts the run again.
        networks: the networks with their scores.
        data: the training data.
        settings: the whole configuration.
        seconds: the duration of the run.
    """

    title: str
    command: str
    networks: list[LanguageScores]
    data: StdlibText
    settings: dict[str, Any]
    seconds: float

    def scores(self) -> dict[str, float]:
        """The student's scores, by their full names."""
        return {"val/nats_per_byte": self.networks[-1].val, "test/nats_per_byte": self.networks[-1].test}

    def page(self) -> Page:
        """The table, and the curves."""
        histories = {each.trained.label: each.trained.history for each in self.networks if each.trained.history}
        return Page(
            title=self.title,
            command=self.command,
            body=[Table(COLUMNS, [each.cells() for each in self.networks]), self.note(), "![losses](losses.png)"],
            said=[self.note()],
            numbers={
                "seconds": self.seconds,
                "fingerprint": self.data.fingerprint(),
                "networks": [each.summary() for each in self.networks],
            },
            settings=self.settings,
            figures={"losses.png": lambda: language_model_curves(histories)},
        )

    def note(self) -> str:
        """The explanation of the table's cells."""
        data = self.data
        return (
            f"{predicted(data.train):,} bytes of training text, {predicted(data.val):,} of validation, "
            f"{predicted(data.test):,} of test, in blocks of {data.block_length}; text {data.fingerprint()[:12]}. "
            "Speed is training's median over the epochs, memory its peak: of torch on a GPU, of the whole process on a "
            "CPU."
        )


class LanguageModelling(StudentExperiment):
    """Language models, scored in nats per byte."""

    score_names: ClassVar[Sequence[str]] = ("val/nats_per_byte", "test/nats_per_byte")

    def trainings(self) -> dict[str, Training]:
        """The networks of ``config.language_models``."""
        return trainings(self.config, self.config.language_models, shows_inputs=False)

    def nll(self, network: nn.Module, student: Training) -> float:
        """In nats per byte."""
        return nats_per_byte(network, cast(StdlibText, student.datamodule).test)

    def numbers(self, trained: Trained, student: Training) -> dict[str, float]:
        """Nats per byte, as the NLL of a comparison."""
        return {"nll": self.nll(trained.network, student)}

    def report(self, student: Training, trained: Sequence[Trained], started: float) -> LanguageReport:
        """Scores on the whole validation and test splits, speed and memory."""
        data = cast(StdlibText, student.datamodule)
        return LanguageReport(
            title=f"{student.label} on {data.name}, seed {self.config.seed}",
            command=self.command,
            networks=[
                LanguageScores(each, nats_per_byte(each.network, data.val), nats_per_byte(each.network, data.test))
                for each in trained
            ],
            data=data,
            settings=plain_settings(self.config),
            seconds=time.perf_counter() - started,
        )

    def log(self, logger: Logger | None, report: LanguageReport, pictures: Sequence[Path]) -> None:
        """Send the scores, the table and the pictures."""
        log_scores(logger, report.scores())
        log_table(logger, "report/networks", COLUMNS, [score.cells() for score in report.networks])
        log_pictures(logger, pictures)


def _count(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"
