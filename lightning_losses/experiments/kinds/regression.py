"""Trains a network that predicts numbers, and reports its errors."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from torch import nn

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.classification import StudentExperiment, trainings
from lightning_losses.experiments.loggers.loggers import log_pictures, log_scores, log_table, plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.training import Trained, Training
from lightning_losses.modules.regressor import point_prediction

COLUMNS = ("network", "RMSE", "MAE", "parameters", "seconds")
SCORE_NAMES = ("test/rmse", "test/mae")


@dataclass(frozen=True)
class RegressionScores:
    """A trained network's errors on the test split, in the targets' standard deviations.

    Attributes:
        trained: the network and its history.
        rmse: the root of the mean squared error.
        mae: the mean absolute error.
    """

    trained: Trained
    rmse: float
    mae: float

    def cells(self) -> list[str]:
        """The table's line."""
        parameters = sum(parameter.numel() for parameter in self.trained.network.parameters())
        seconds = f"{self.trained.seconds:.1f}" + (" (kept)" if self.trained.kept else "")
        return [self.trained.label, f"{self.rmse:.4f}", f"{self.mae:.4f}", f"{parameters:,}", seconds]

    def summary(self) -> dict[str, Any]:
        """The plain values of the report."""
        return {"name": self.trained.name, "label": self.trained.label, "rmse": self.rmse, "mae": self.mae,
                "seconds": self.trained.seconds, "history": self.trained.history}  # fmt: skip


@dataclass(frozen=True)
class RegressionReport:
    """What a run found.

    Attributes:
        title: one line.
        command: what starts the run again.
        networks: with their errors; the student is the last.
        settings: the whole configuration.
        seconds: of the run.
    """

    title: str
    command: str
    networks: list[RegressionScores]
    settings: dict[str, Any]
    seconds: float

    def scores(self) -> dict[str, float]:
        """The student's, by their full names."""
        return {"test/rmse": self.networks[-1].rmse, "test/mae": self.networks[-1].mae}

    def page(self) -> Page:
        """The table."""
        note = "Errors are those of the test split, in standard deviations of the training targets."
        return Page(
            title=self.title,
            command=self.command,
            body=[Table(COLUMNS, [each.cells() for each in self.networks]), note],
            said=[note],
            numbers={"seconds": self.seconds, "networks": [each.summary() for each in self.networks]},
            settings=self.settings,
        )


class RegressionTraining(StudentExperiment):
    """Networks that predict numbers, scored on test data."""

    score_names = SCORE_NAMES

    def trainings(self) -> dict[str, Training]:
        """The networks of ``config.modules``."""
        if self.config.weights == "best":
            raise ConfigError("weights=best: it chooses by accuracy, which numbers have none of; give weights=last.")
        return trainings(self.config, self.config.modules, shows_inputs=False)

    def nll(self, network: nn.Module, student: Training) -> float:
        """Half the mean squared error: the likelihood of a Gaussian of variance 1, without its constant."""
        return 0.5 * scores_of(Trained("", "", network, {}, 0.0), student.datamodule.test).rmse ** 2

    def numbers(self, trained: Trained, student: Training) -> dict[str, float]:
        """The errors on the test split, and on validation data the root of the mean squared error."""
        data = student.datamodule
        test, val = scores_of(trained, data.test), scores_of(trained, data.val)
        return {"rmse": test.rmse, "mae": test.mae, "val_rmse": val.rmse}

    def report(self, student: Training, trained: Sequence[Trained], started: float) -> RegressionReport:
        """The errors on the test split."""
        return RegressionReport(
            title=f"{student.label} on {student.datamodule.name}, seed {self.config.seed}",
            command=self.command,
            networks=[scores_of(network, student.datamodule.test) for network in trained],
            settings=plain_settings(self.config),
            seconds=time.perf_counter() - started,
        )

    def log(self, logger: Logger | None, report: RegressionReport, pictures: Sequence[Path]) -> None:
        """Send the scores, the table and the pictures."""
        log_scores(logger, report.scores())
        log_table(logger, "report/networks", COLUMNS, [score.cells() for score in report.networks])
        log_pictures(logger, pictures)


@torch.no_grad()
def scores_of(trained: Trained, rows: Any) -> RegressionScores:
    """The errors of a network's point predictions on a split."""
    error = point_prediction(trained.network(rows.inputs)).double() - rows.target.double()
    return RegressionScores(trained, error.square().mean().sqrt().item(), error.abs().mean().item())
