"""Trains embeddings of some classes, and reports how well others, which training did not see, are told by them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.classification import StudentExperiment, trainings
from lightning_losses.experiments.loggers.loggers import log_pictures, log_scores, log_table, plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.evaluation import predict_logits
from lightning_losses.experiments.training.training import Trained, Training
from lightning_losses.metrics import bootstrap_interval, opis
from lightning_losses.metrics.class_retrieval import class_retrieval
from lightning_losses.modules.metric_learner import embedding_scores
from lightning_losses.plots.curves import loss_curves
from lightning_losses.plots.operating_points import operating_points

COLUMNS = ("network", "recall@1, %", "MAP@R, %", "OPIS × 1000", "parameters", "seconds")


@dataclass(frozen=True)
class EmbeddedSplit:
    """A trained network, and what it makes of the test split.

    Attributes:
        trained: the network and its history.
        embeddings: of the test split.
        target: its classes.
    """

    trained: Trained
    embeddings: Float[Tensor, "samples dim"]
    target: Int[Tensor, " samples"]

    def scores(self) -> dict[str, float]:
        """Recall@1, MAP@R and OPIS."""
        return embedding_scores(self.embeddings, self.target)

    def cells(self) -> list[str]:
        """The table's line, with 95 % intervals over the test samples."""
        found, trained = class_retrieval(self.embeddings, self.target), self.trained
        shown = []
        for values in (found.recall_at_1, found.map_at_r):
            low, high = bootstrap_interval(lambda rows: rows.mean(dim=-1), values, batched=True)
            ends = "" if bool(low.isnan()) else f" [{100 * float(low):.2f}, {100 * float(high):.2f}]"
            shown.append(f"{100 * values.mean():.2f}{ends}")
        parameters = sum(parameter.numel() for parameter in trained.network.parameters())
        seconds = f"{trained.seconds:.1f}" + (" (kept)" if trained.kept else "")
        return [trained.label, *shown, f"{1000 * self.scores()['opis']:.2f}", f"{parameters:,}", seconds]


@dataclass(frozen=True)
class MetricLearningReport:
    """The report of a run.

    Attributes:
        title: one line.
        command: what starts the run again.
        networks: the inputs themselves, and the networks, on the test split; the student is the last.
        seen: the number of classes that were trained on.
        settings: the whole configuration.
        seconds: of the run.
    """

    title: str
    command: str
    networks: Sequence[EmbeddedSplit]
    seen: int
    settings: dict[str, Any]
    seconds: float

    def scores(self) -> dict[str, float]:
        """The student's scores, by their full names."""
        return {f"test/{name}": value for name, value in self.networks[-1].scores().items()}

    def rows(self) -> list[list[str]]:
        """The table's cells, a line a network."""
        return [network.cells() for network in self.networks]

    def page(self) -> Page:
        """The table, the curves, and the classes' operating points."""
        student = self.networks[-1]
        histories = {one.trained.label: one.trained.history for one in self.networks if one.trained.history}
        tested = sorted(set(student.target.tolist()))
        note = (
            f"Of {len(student.target):,} test samples of the classes {', '.join(map(str, tested))}, each of which "
            f"looks for its class among the others; trained on {self.seen} classes. Intervals are those of 95 % of a "
            "bootstrap over the samples of this one network, without the spread of trainings, seeds and classes. OPIS "
            "tells how unequally one threshold of distance serves the classes; the lower, the more alike."
        )
        return Page(
            title=self.title,
            command=self.command,
            body=[
                Table(COLUMNS, self.rows()),
                note,
                "![operating points](operating_points.png)",
                "![losses](losses.png)",
            ],
            said=[note],
            numbers={
                "seconds": self.seconds,
                "networks": [
                    {"name": one.trained.name, "label": one.trained.label, **one.scores(),
                     "seconds": one.trained.seconds, "kept": one.trained.kept, "history": one.trained.history}
                    for one in self.networks
                ],
            },
            settings=self.settings,
            figures={
                "operating_points.png": lambda: _points(student),
                "losses.png": lambda: loss_curves(histories),
            },
        )  # fmt: skip


class MetricLearning(StudentExperiment):
    """Embeddings that are trained on some classes, scored on others."""

    score_names = ("test/recall_at_1", "test/map_at_r", "test/opis")

    def trainings(self) -> dict[str, Training]:
        """The networks of ``config.modules``."""
        if self.config.weights == "best":
            raise ConfigError("weights=best: it chooses by accuracy, which embeddings have none of; give weights=last.")
        return trainings(self.config, self.config.modules, shows_inputs=False)

    def nll(self, network: nn.Module, student: Training) -> float:
        """The share of test samples whose nearest other is of another class: embeddings have no likelihood."""
        data = student.datamodule.test
        return 1 - embedding_scores(predict_logits(network, data), data.target)["recall_at_1"]

    def numbers(self, trained: Trained, student: Training) -> dict[str, float]:
        """The scores on the test split, and on validation data, of the classes that were trained on, those too."""
        data = student.datamodule
        test, val = (
            embedding_scores(predict_logits(trained.network, part), part.target) for part in (data.test, data.val)
        )
        return {**test, "val_recall_at_1": val["recall_at_1"], "val_map_at_r": val["map_at_r"]}

    def report(self, student: Training, trained: Sequence[Trained], started: float) -> MetricLearningReport:
        """The scores on the test split."""
        data = student.datamodule
        return MetricLearningReport(
            title=f"{student.label} on {data.name}, seed {self.config.seed}",
            command=self.command,
            networks=[
                EmbeddedSplit(each, predict_logits(each.network, data.test), data.test.target)
                for each in (Trained("inputs", "the inputs themselves", nn.Flatten(), {}, 0.0), *trained)
            ],
            seen=len(torch.unique(data.train.target)),
            settings=plain_settings(self.config),
            seconds=time.perf_counter() - started,
        )

    def log(self, logger: Logger | None, report: MetricLearningReport, pictures: Sequence[Path]) -> None:
        """Send the scores, the table and the pictures."""
        log_scores(logger, report.scores())
        log_table(logger, "report/networks", COLUMNS, report.rows())
        log_pictures(logger, pictures)


def _points(student: EmbeddedSplit) -> Any:
    found = opis(student.embeddings, student.target)
    return operating_points(found.thresholds, found.utility, found.classes, title=student.trained.label)
