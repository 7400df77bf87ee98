"""Trains a network on samples with many labels, and reports its scores."""

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
from lightning_losses.modules.multi_label_classifier import known_labels, label_scores, mean_entropy
from lightning_losses.plots.curves import loss_curves

_SCORES = {"mean_average_precision": "mAP %", "micro_f1": "micro F1 %", "macro_f1": "macro F1 %"}
COLUMNS = ("network", *_SCORES.values(), "parameters", "seconds")


@dataclass(frozen=True)
class MultiLabelReport:
    """The report of a run.

    Attributes:
        title: one line.
        command: what starts the run again.
        networks: the networks with their scores on the test split; the student is the last.
        settings: the whole configuration.
        seconds: of the run.
    """

    title: str
    command: str
    networks: Sequence[tuple[Trained, dict[str, float]]]
    settings: dict[str, Any]
    seconds: float

    def scores(self) -> dict[str, float]:
        """The student's scores, by their full names."""
        return {f"test/{name}": value for name, value in self.networks[-1][1].items()}

    def rows(self) -> list[list[str]]:
        """The table's cells, a line a network."""
        return [
            [
                trained.label,
                *(f"{100 * scores[name]:.2f}" for name in _SCORES),
                f"{sum(parameter.numel() for parameter in trained.network.parameters()):,}",
                f"{trained.seconds:.1f}" + (" (kept)" if trained.kept else ""),
            ]
            for trained, scores in self.networks
        ]

    def page(self) -> Page:
        """The table, and the curves."""
        histories = {trained.label: trained.history for trained, _ in self.networks if trained.history}
        note = (
            "Scores of the test split: mAP is the mean over labels of the average precision; F1 is at a probability of "
            "a half, over all labels at once (micro), or the mean over labels (macro)."
        )
        return Page(
            title=self.title,
            command=self.command,
            body=[Table(COLUMNS, self.rows()), note, "![losses](losses.png)"],
            said=[note],
            numbers={
                "seconds": self.seconds,
                "networks": [
                    {"name": trained.name, "label": trained.label, **scores, "seconds": trained.seconds,
                     "kept": trained.kept, "history": trained.history}
                    for trained, scores in self.networks
                ],
            },
            settings=self.settings,
            figures={"losses.png": lambda: loss_curves(histories)},
        )  # fmt: skip


class MultiLabelTraining(StudentExperiment):
    """Networks of many labels, scored on test data."""

    score_names = tuple(f"test/{name}" for name in _SCORES)

    def trainings(self) -> dict[str, Training]:
        """The networks of ``config.modules``."""
        if self.config.weights == "best":
            raise ConfigError("weights=best: it chooses by accuracy, which is of one class; give weights=last.")
        return trainings(self.config, self.config.modules)

    def nll(self, network: nn.Module, student: Training) -> float:
        """In nats per label."""
        rows: Any = student.datamodule.test
        return float(mean_entropy(_logits(network, rows), rows.target, known_labels(rows.target)))

    def numbers(self, trained: Trained, student: Training) -> dict[str, float]:
        """The scores on the test split, and on validation data the mean average precision."""
        data = student.datamodule
        val = _scores(trained.network, data.val)["mean_average_precision"]
        return {**_scores(trained.network, data.test), "val_mean_average_precision": val}

    def report(self, student: Training, trained: Sequence[Trained], started: float) -> MultiLabelReport:
        """The scores on the test split."""
        data = student.datamodule
        return MultiLabelReport(
            title=f"{student.label} on {data.name}, seed {self.config.seed}",
            command=self.command,
            networks=[(each, _scores(each.network, data.test)) for each in trained],
            settings=plain_settings(self.config),
            seconds=time.perf_counter() - started,
        )

    def log(self, logger: Logger | None, report: MultiLabelReport, pictures: Sequence[Path]) -> None:
        """Send the scores, the table and the pictures."""
        log_scores(logger, report.scores())
        log_table(logger, "report/networks", COLUMNS, report.rows())
        log_pictures(logger, pictures)


@torch.no_grad()
def _logits(network: nn.Module, rows: Any) -> torch.Tensor:
    return network(rows.inputs).float()


def _scores(network: nn.Module, rows: Any) -> dict[str, float]:
    return label_scores(_logits(network, rows), rows.target)
