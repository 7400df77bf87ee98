"""Trains a network that predicts numbers, and reports its errors and intervals that cover."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from lightning_losses.calibrators import CQR, SplitConformal
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.classification import StudentExperiment, trainings
from lightning_losses.experiments.loggers.loggers import log_pictures, log_scores, log_table, plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.training import Trained, Training
from lightning_losses.metrics import interval_coverage, interval_width
from lightning_losses.modules.regressor import point_prediction, predicted_spread

COLUMNS = ("network", "RMSE", "MAE", "constant width", "covered, %", "own width", "covered, %", "parameters", "seconds")
SCORE_NAMES = ("test/rmse", "test/mae")
# The share that intervals may miss.
ALPHA = 0.1


class Intervals(NamedTuple):
    """What conformal intervals came to on the test split: the share that they cover, and their mean width."""

    covered: float
    width: float


@dataclass(frozen=True)
class RegressionScores:
    """A trained network's errors on the test split, in the targets' standard deviations.

    Attributes:
        trained: the network and its history.
        rmse: the root of the mean squared error.
        mae: the mean absolute error.
        constant: of intervals that are equally wide everywhere; None where none were fitted.
        own: of intervals from predicted quantiles, or as wide as predicted spreads; None where there are none.
    """

    trained: Trained
    rmse: float
    mae: float
    constant: Intervals | None = None
    own: Intervals | None = None

    def cells(self) -> list[str]:
        """The table's line."""
        parameters = sum(parameter.numel() for parameter in self.trained.network.parameters())
        seconds = f"{self.trained.seconds:.1f}" + (" (kept)" if self.trained.kept else "")
        widths = [
            text
            for each in (self.constant, self.own)
            for text in (("–", "–") if each is None else (f"{each.width:.3f}", f"{100 * each.covered:.1f}"))
        ]
        return [self.trained.label, f"{self.rmse:.4f}", f"{self.mae:.4f}", *widths, f"{parameters:,}", seconds]

    def summary(self) -> dict[str, Any]:
        """The plain values of the report."""
        both = {"constant": self.constant, "own": self.own}
        intervals = {name: None if each is None else each._asdict() for name, each in both.items()}
        return {
            "name": self.trained.name,
            "label": self.trained.label,
            "rmse": self.rmse,
            "mae": self.mae,
            "intervals": intervals,
            "seconds": self.trained.seconds,
            "history": self.trained.history,
        }


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
        note = (
            "Errors are those of the test split, in standard deviations of the training targets. Widths are those of "
            f"intervals that were fitted to the validation split to cover {100 * (1 - ALPHA):g} %: equally wide "
            "everywhere, and by the network's own quantiles or spreads. Of intervals that cover as often the narrower "
            "are better."
        )
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
            networks=[scores_of(network, student.datamodule.test, student.datamodule.val) for network in trained],
            settings=plain_settings(self.config),
            seconds=time.perf_counter() - started,
        )

    def log(self, logger: Logger | None, report: RegressionReport, pictures: Sequence[Path]) -> None:
        """Send the scores, the table and the pictures."""
        log_scores(logger, report.scores())
        log_table(logger, "report/networks", COLUMNS, [score.cells() for score in report.networks])
        log_pictures(logger, pictures)


@torch.no_grad()
def scores_of(trained: Trained, rows: Any, fitted: Any = None) -> RegressionScores:
    """The errors of a network's point predictions on a split, and conformal intervals that were fitted to another."""
    predicted = trained.network(rows.inputs)
    error = point_prediction(predicted).double() - rows.target.double()
    scores = RegressionScores(trained, error.square().mean().sqrt().item(), error.abs().mean().item())
    if fitted is None:
        return scores
    constant, own = conformal_intervals(trained.network(fitted.inputs), fitted.target, predicted)
    return replace(scores, constant=_measured(constant, rows.target), own=_measured(own, rows.target))


def conformal_intervals(
    fitted: Mapping[str, Tensor], target: Float[Tensor, " rows"], predicted: Mapping[str, Tensor]
) -> tuple[Float[Tensor, "values 2"], Float[Tensor, "values 2"] | None]:
    """Intervals that are equally wide, and those of the network's own quantiles or spreads, if it predicts them.

    Args:
        fitted: what was predicted, by name, of rows that the network was not trained on.
        target: the numbers of these rows.
        predicted: what was predicted of the rows that intervals are wanted of.
    """
    points = point_prediction(predicted)
    constant = SplitConformal(ALPHA).fit(point_prediction(fitted), target)(points)
    if "quantiles" in predicted:
        low, high = fitted["quantiles"].aminmax(dim=-1)
        return constant, CQR(ALPHA).fit(low, high, target)(*predicted["quantiles"].aminmax(dim=-1))
    spreads = [predicted_spread(each) for each in (fitted, predicted)]
    if spreads[0] is None:
        return constant, None
    return constant, SplitConformal(ALPHA, normalised=True).fit(point_prediction(fitted), target, spreads[0])(
        points, spreads[1]
    )


def _measured(intervals: Tensor | None, target: Tensor) -> Intervals | None:
    if intervals is None:
        return None
    return Intervals(interval_coverage(intervals, target).item(), interval_width(intervals).item())
