"""Trains a text encoder on pairs of a query and its document, and reports retrieval before and after."""

import math
import time
from collections.abc import Mapping, Sequence
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
from lightning_losses.metrics.retrieval import RetrievalScore, pooled_auc, retrieval_ranks, retrieval_scores
from lightning_losses.plots.curves import loss_curves
from lightning_losses.plots.seed_intervals import Interval, seed_intervals

_NAMES = {"MRR": "mrr", "recall@1": "recall_at_1", "recall@10": "recall_at_10"}
COLUMNS = ("encoder", *_NAMES, "AUC %", "parameters", "seconds")


@dataclass(frozen=True)
class Retrieved:
    """What an encoder finds on the test split.

    Attributes:
        scores: MRR, recall@1 and recall@10, with intervals over the queries.
        auc: the area under the ROC curve of all cosines at once.
    """

    scores: Mapping[str, RetrievalScore]
    auc: float

    def cells(self) -> list[str]:
        """Those of the table."""
        return [*(str(self.scores[name]) for name in _NAMES), f"{100 * self.auc:.2f}"]

    def numbers(self) -> dict[str, float]:
        """The values alone, by metric."""
        return {**{_NAMES[name]: self.scores[name].value for name in _NAMES}, "pooled_auc": self.auc}

    def plain(self) -> dict[str, Any]:
        """The values of the report."""
        return {**{_NAMES[name]: self.scores[name]._asdict() for name in _NAMES}, "pooled_auc": self.auc}


@dataclass(frozen=True)
class RetrievalReport:
    """The report of a run.

    Attributes:
        title: one line.
        command: what starts the run again.
        untrained: what the student's network finds before training.
        networks: the networks with what they find; the student is the last.
        settings: the whole configuration.
        seconds: of the run.
    """

    title: str
    command: str
    untrained: Retrieved
    networks: Sequence[tuple[Trained, Retrieved]]
    settings: dict[str, Any]
    seconds: float

    def scores(self) -> dict[str, float]:
        """The student's, by their full names."""
        return {f"test/{name}": value for name, value in self.networks[-1][1].numbers().items()}

    def rows(self) -> list[list[str]]:
        """The table's cells, a line an encoder."""
        lines = [["untrained", *self.untrained.cells(), "–", "–"]]
        for trained, found in self.networks:
            parameters = sum(parameter.numel() for parameter in trained.network.parameters())
            seconds = f"{trained.seconds:.1f}" + (" (kept)" if trained.kept else "")
            lines.append([trained.label, *found.cells(), f"{parameters:,}", seconds])
        return lines

    def page(self) -> Page:
        """The table, and the pictures."""
        histories = {trained.label: trained.history for trained, _ in self.networks if trained.history}
        note = (
            "Each test query looks for its own document among those of all test queries: the mean of 1 / rank, and the "
            "shares found within 1 and 10 ranks, with 95 % intervals over the queries. AUC is that of all cosines at "
            "once, right pairs against wrong ones."
        )
        stages = {
            trained.label: (self.untrained.scores, found.scores) if trained is self.networks[-1][0] else (found.scores,)
            for trained, found in self.networks
        }
        panels: dict[str, dict[str, Sequence[Interval]]] = {
            name: {label: [scores[name] for scores in several] for label, several in stages.items()} for name in _NAMES
        }
        return Page(
            title=self.title,
            command=self.command,
            body=[Table(COLUMNS, self.rows()), note, "![retrieval](retrieval.png)", "![losses](losses.png)"],
            said=[note],
            numbers={
                "seconds": self.seconds,
                "untrained": self.untrained.plain(),
                "networks": [
                    {"name": trained.name, "label": trained.label, **found.plain(), "seconds": trained.seconds,
                     "kept": trained.kept, "history": trained.history}
                    for trained, found in self.networks
                ],
            },
            settings=self.settings,
            figures={
                "retrieval.png": lambda: seed_intervals(panels, stages=["before", "after"]),
                "losses.png": lambda: loss_curves(histories),
            },
        )  # fmt: skip


class RetrievalTraining(StudentExperiment):
    """An encoder of queries and documents, scored on test data before and after its training."""

    score_names = (*(f"test/{name}" for name in _NAMES.values()), "test/pooled_auc")

    def trainings(self) -> dict[str, Training]:
        """The networks of ``config.modules``."""
        if self.config.weights == "best":
            raise ConfigError("weights=best: it chooses by accuracy, which retrieval has none of; give weights=last.")
        return trainings(self.config, self.config.modules, shows_inputs=False)

    def rehearse(self) -> None:
        """Take a step, with inputs that the network is for."""
        check_features(self.trainings()["student"])
        super().rehearse()

    def nll(self, network: nn.Module, student: Training) -> float:
        """The mean logarithm of the rank on the test split."""
        return float(-math.log(retrieved(network, student.datamodule.test).scores["MRR"].value))

    def numbers(self, trained: Trained, student: Training) -> dict[str, float]:
        """What is found on the test split, before training too, and on validation data the mean reciprocal rank."""
        data = student.datamodule
        test, val = retrieved(trained.network, data.test), retrieved(trained.network, data.val)
        return {
            **test.numbers(),
            "mrr_before": self._untrained(student).scores["MRR"].value,
            "val_mrr": val.scores["MRR"].value,
        }

    def report(self, student: Training, trained: Sequence[Trained], started: float) -> RetrievalReport:
        """What is found on the test split."""
        data = student.datamodule
        return RetrievalReport(
            title=f"{student.label} on {data.name}, seed {self.config.seed}",
            command=self.command,
            untrained=self._untrained(student),
            networks=[(each, retrieved(each.network, data.test)) for each in trained],
            settings=plain_settings(self.config),
            seconds=time.perf_counter() - started,
        )

    def log(self, logger: Logger | None, report: RetrievalReport, pictures: Sequence[Path]) -> None:
        """Send the scores, the table and the pictures."""
        log_scores(logger, report.scores())
        log_table(logger, "report/networks", COLUMNS, report.rows())
        log_pictures(logger, pictures)

    def _untrained(self, student: Training) -> Retrieved:
        return retrieved(student.build().get_submodule("network"), student.datamodule.test)


def check_features(student: Training) -> None:
    """Raise `ConfigError` for token ids that a network of hashed words would get, or the other way round.

    Both are whole numbers, so that it would train on without a word.
    """
    takes_tokens = hasattr(student.build().get_submodule("network"), "tokenize")
    if takes_tokens != (student.data.get("tokenizer") is not None):
        raise ConfigError(
            f"data.tokenizer: a network of {'token ids' if takes_tokens else 'hashed words'} came with data of "
            f"{'hashed words' if takes_tokens else 'token ids'}; give experiment=retrieval_pretrained for a sentence "
            "model, and experiment=retrieval for an encoder of hashed words."
        )


@torch.no_grad()
def retrieved(network: nn.Module, split: Any, batch_size: int = 256) -> Retrieved:
    """What a network finds of the pairs of a split."""
    network = network.eval().cpu()
    queries, documents = (
        torch.cat([network(part).float() for part in torch.split(texts, batch_size)])
        for texts in (split.queries, split.documents)
    )
    ranks = retrieval_ranks(queries, documents).unsqueeze(0)
    return Retrieved(retrieval_scores(ranks), float(pooled_auc(queries, documents)))
