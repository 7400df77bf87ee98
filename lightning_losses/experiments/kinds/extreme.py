"""Trains a network on samples with a few of very many labels, and reports how well it ranks them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.kinds.classification import StudentExperiment, trainings
from lightning_losses.experiments.loggers.loggers import log_pictures, log_scores, log_table, plain_settings
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.training import Trained, Training
from lightning_losses.metrics.bootstrap import bootstrap_interval, mean_interval
from lightning_losses.metrics.ranked_labels import label_propensities, precision_at_k, propensity_scored_gains
from lightning_losses.metrics.retrieval import RetrievalScore
from lightning_losses.modules.extreme_classifier import RANKS
from lightning_losses.modules.multi_label_classifier import known_labels, mean_entropy
from lightning_losses.plots.curves import loss_curves
from lightning_losses.plots.seed_intervals import Interval, seed_intervals

_NAMES = {
    **{f"precision_at_{k}": f"P@{k} %" for k in RANKS},
    **{f"propensity_scored_precision_at_{k}": f"PSP@{k} %" for k in RANKS},
}
COLUMNS = ("network", *_NAMES.values(), "parameters", "seconds")
# Every sample gets the labels that most training samples have, whatever it says.
_COMMON = "the most common labels"


@dataclass(frozen=True)
class ExtremeReport:
    """The report of a run.

    Attributes:
        title: one line.
        command: what starts the run again.
        networks: the networks with their scores on the test split; the student is the last.
        common: the scores of the most common labels.
        settings: the whole configuration.
        seconds: of the run.
    """

    title: str
    command: str
    networks: Sequence[tuple[Trained, dict[str, RetrievalScore]]]
    common: dict[str, RetrievalScore]
    settings: dict[str, Any]
    seconds: float

    def scores(self) -> dict[str, float]:
        """The student's scores, by their full names."""
        return {f"test/{name}": score.value for name, score in self.networks[-1][1].items()}

    def rows(self) -> list[list[str]]:
        """The table's cells, a line a network."""
        lines = [[_COMMON, *map(_percent, self.common.values()), "0", "–"]]
        for trained, scores in self.networks:
            parameters = sum(parameter.numel() for parameter in trained.network.parameters())
            seconds = f"{trained.seconds:.1f}" + (" (kept)" if trained.kept else "")
            lines.append([trained.label, *map(_percent, scores.values()), f"{parameters:,}", seconds])
        return lines

    def page(self) -> Page:
        """The table, and the pictures."""
        histories = {trained.label: trained.history for trained, _ in self.networks if trained.history}
        note = (
            "Of the test split: P@k is the share of a sample's k best labels that it has; in PSP@k a label counts more "
            "the rarer it is in training, as a share of what the best ranking would get. Intervals are at 95 %, over "
            "the samples."
        )
        panels: dict[str, dict[str, Sequence[Interval]]] = {
            name: {
                label: [_in_percent(scores[metric])]
                for label, scores in [
                    (_COMMON, self.common),
                    *((trained.label, scores) for trained, scores in self.networks),
                ]
            }
            for metric, name in _NAMES.items()
        }
        return Page(
            title=self.title,
            command=self.command,
            body=[Table(COLUMNS, self.rows()), note, "![precision](precision.png)", "![losses](losses.png)"],
            said=[note],
            numbers={
                "seconds": self.seconds,
                "common": _plain(self.common),
                "networks": [
                    {"name": trained.name, "label": trained.label, **_plain(scores), "seconds": trained.seconds,
                     "kept": trained.kept, "history": trained.history}
                    for trained, scores in self.networks
                ],
            },
            settings=self.settings,
            figures={
                "precision.png": lambda: seed_intervals(panels, stages=[""]),
                "losses.png": lambda: loss_curves(histories),
            },
        )  # fmt: skip


class ExtremeTraining(StudentExperiment):
    """Networks of very many labels, scored on test data."""

    score_names = tuple(f"test/{name}" for name in _NAMES)

    def trainings(self) -> dict[str, Training]:
        """The networks of ``config.modules``."""
        if self.config.weights == "best":
            raise ConfigError("weights=best: it chooses by accuracy, which is of one class; give weights=last.")
        return trainings(self.config, self.config.modules, shows_inputs=False)

    def nll(self, network: nn.Module, student: Training) -> float:
        """In nats per label."""
        rows: Any = student.datamodule.test
        return float(mean_entropy(_logits(network, rows), rows.target, known_labels(rows.target)))

    def numbers(self, trained: Trained, student: Training) -> dict[str, float]:
        """The scores on the test split, and on validation data the precision at 1 and 5."""
        data = student.datamodule
        test = label_ranking(_logits(trained.network, data.test), data.test.target, data.train.target)
        val = label_ranking(_logits(trained.network, data.val), data.val.target, data.train.target, intervals=False)
        chosen = {f"val_precision_at_{k}": val[f"precision_at_{k}"].value for k in (1, 5)}
        return {**{name: score.value for name, score in test.items()}, **chosen}

    def report(self, student: Training, trained: Sequence[Trained], started: float) -> ExtremeReport:
        """The scores on the test split."""
        data = student.datamodule
        common = data.train.target.sum(dim=0).float().expand(len(data.test), -1)
        return ExtremeReport(
            title=f"{student.label} on {data.name}, seed {self.config.seed}",
            command=self.command,
            networks=[
                (each, label_ranking(_logits(each.network, data.test), data.test.target, data.train.target))
                for each in trained
            ],
            common=label_ranking(common, data.test.target, data.train.target),
            settings=plain_settings(self.config),
            seconds=time.perf_counter() - started,
        )

    def log(self, logger: Logger | None, report: ExtremeReport, pictures: Sequence[Path]) -> None:
        """Send the scores, the table and the pictures."""
        log_scores(logger, report.scores())
        log_table(logger, "report/networks", COLUMNS, report.rows())
        log_pictures(logger, pictures)


def label_ranking(
    scores: Float[Tensor, "samples labels"], target: Tensor, training_target: Tensor, *, intervals: bool = True
) -> dict[str, RetrievalScore]:
    """Precision at 1, 3 and 5, plain and by propensity, with 95 % intervals over the samples.

    Args:
        scores: [N, L].
        target: [N, L] the labels of these samples.
        training_target: [n, L] those of the training samples, which the propensities are of.
        intervals: False leaves them out, as NaN.
    """
    propensities = label_propensities(training_target.sum(dim=0), len(training_target))
    found = {}
    for k in RANKS:
        each = precision_at_k(scores, target, k)
        ends = mean_interval(each) if intervals else (torch.nan, torch.nan)
        found[f"precision_at_{k}"] = RetrievalScore(float(each.mean()), *map(float, ends))
    for k in RANKS:
        gains = propensity_scored_gains(scores, target, propensities, k)
        ends = bootstrap_interval(_ratio, *gains, batched=True) if intervals else (torch.nan, torch.nan)
        name = f"propensity_scored_precision_at_{k}"
        found[name] = RetrievalScore(float(_ratio(*gains)), *map(float, ends))
    return found


def _ratio(gained: Tensor, best: Tensor) -> Tensor:
    return gained.sum(dim=-1) / best.sum(dim=-1)


@torch.no_grad()
def _logits(network: nn.Module, rows: Any) -> Tensor:
    """Of all rows, part by part: the features of many texts at once take much memory."""
    return torch.cat([network(part).float() for part in torch.split(rows.inputs, 512)])


def _in_percent(score: RetrievalScore) -> Interval:
    return 100 * score.value, 100 * score.low, 100 * score.high


def _percent(score: RetrievalScore) -> str:
    value, low, high = _in_percent(score)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _plain(scores: dict[str, RetrievalScore]) -> dict[str, dict[str, float]]:
    return {name: score._asdict() for name, score in scores.items()}
