"""Trains language models, and reports nats per byte, speed and memory."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from lightning_losses.callbacks.records.metrics_file import append_metrics
from lightning_losses.data.packing import IGNORED
from lightning_losses.data.stdlib_text import StdlibText, TextDataset
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.experiments.launch import command
from lightning_losses.experiments.loggers.loggers import (
    finish,
    log_checkpoints,
    log_pictures,
    log_scores,
    log_table,
    make_logger,
    plain_settings,
)
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.processes import first_process
from lightning_losses.experiments.training.training import Trained, Training
from lightning_losses.plots.language_model import language_model_curves

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


class LanguageTraining(Training):
    """How one language model is trained; its module needs no example of the inputs."""

    def examples(self) -> dict[str, Any]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class LanguageScores:
    """A trained language model and what it is worth.

    Attributes:
        trained: the network and its history.
        val: cross-entropy on the validation split, in nats per byte.
        test: likewise on the test split.
    """

    trained: Trained
    val: float
    test: float

    @property
    def tokens_per_second(self) -> float:
        """Training's speed: the median over the epochs; NaN for a network that was given."""
        return statistics.median(self.trained.history.get("train/tokens_per_second", [math.nan]))

    @property
    def peak_memory(self) -> float:
        """Bytes at training's peak; NaN for a network that was given."""
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


def trainings(config: DictConfig) -> list[Training]:
    """The networks of ``config.language_models``, in order: the student last, after what it is compared with."""
    found: dict[str, Training] = {}
    for name in ("teacher", "baseline", "student"):
        if config.language_models.get(name) is not None:
            found[name] = LanguageTraining(
                name=name,
                module=config.language_models[name],
                data=config.data,
                trainer=config.trainer,
                scheduler=config.get("scheduler") or None,
                callbacks=config.get("callbacks") or None,
                seed=config.teacher_seed if name == "teacher" else config.seed,
                weights=config.weights,
                teacher=found.get("teacher") if name == "student" else None,
                checkpoint=config.teacher_weights if name == "teacher" else None,
                execution=config.get("execution") or None,
            )
    return list(found.values())


def rehearse(config: DictConfig) -> None:
    """Take one step with every network, so that what can't work is known before anything was trained."""
    for training in trainings(config):
        training.rehearse()


def train_language_models(config: DictConfig, folder: Path) -> list[LanguageScores]:
    """Train what the experiment names, and write the report into the run's folder.

    Teacher and baseline are trained once, and kept under a hash of all that made them.
    """
    started = time.perf_counter()
    console = Console(soft_wrap=True, highlight=False)
    kept = KeptNetworks(config.cache or cache_folder() / "networks")
    checkpoints, resume = folder / "checkpoints", config.resume is not None
    *before, student = trainings(config)
    trained: list[Trained] = []
    for training in before:
        trained.append(training.run_once(kept, checkpoints, resume=resume))
        if trained[-1].kept:
            console.print(f"{training.label}: trained before, kept in {kept.place(training.identity)}")
    logger = make_logger(config, folder)
    teacher = next((network.network for network in trained if network.name == "teacher"), None)
    metrics = folder / "metrics.jsonl"
    trained.append(student.run(checkpoints, resume=resume, logger=logger, teacher=teacher, metrics_file=metrics))
    if not first_process():
        # Lightning ran the command again for this process; the first one reports.
        return []

    data = cast(StdlibText, student.datamodule)
    scores = [
        LanguageScores(network, nats_per_byte(network.network, data.val), nats_per_byte(network.network, data.test))
        for network in trained
    ]
    title = f"{student.label} on {data.name}, seed {config.seed}"
    seconds = time.perf_counter() - started
    page = _page(config, title, scores, data, seconds)
    pictures = page.write(folder / "report")
    # What monitors drew.
    pictures += sorted(set((folder / "report").glob("*.png")) - set(pictures))
    values = {"val/nats_per_byte": scores[-1].val, "test/nats_per_byte": scores[-1].test}
    log_scores(logger, values)
    log_table(logger, "report/networks", COLUMNS, [score.cells() for score in scores])
    log_pictures(logger, pictures)
    log_checkpoints(logger, checkpoints / "student", "student", values)
    finish(logger)
    # Last: who watches the run knows by it that the run is done.
    append_metrics(metrics, {**values, "finished": True})
    page.show()
    console.print(f"{seconds:.0f} s. The report is in {folder / 'report'}")
    return scores


@torch.no_grad()
def nats_per_byte(network: nn.Module, dataset: TextDataset, batch_size: int = 64) -> float:
    """Cross-entropy of a whole split, each byte predicted from those before it in its block and document."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.eval().to(device)
    total = 0.0
    for positions in torch.split(torch.arange(len(dataset)), batch_size):
        batch = {name: tensor.to(device) for name, tensor in dataset.__getitems__(positions.tolist()).items()}
        target = batch.pop("target").flatten()
        logits = network(batch.pop("inputs"), **batch).float()
        total += F.cross_entropy(logits.flatten(0, -2), target, ignore_index=IGNORED, reduction="sum").item()
    network.cpu()
    return total / predicted(dataset)


def predicted(dataset: TextDataset) -> int:
    """How many bytes of a split are predicted."""
    return int((dataset.target.long() != IGNORED).sum())


def _note(data: StdlibText) -> str:
    """What the table's cells mean."""
    return (
        f"{predicted(data.train):,} bytes of training text, {predicted(data.val):,} of validation, "
        f"{predicted(data.test):,} of test, in blocks of {data.block_length}; text {data.fingerprint()[:12]}. "
        "Speed is training's median over the epochs, memory its peak: of torch on a GPU, of the whole process on a CPU."
    )


def _page(config: DictConfig, title: str, scores: Sequence[LanguageScores], data: StdlibText, seconds: float) -> Page:
    histories = {score.trained.label: score.trained.history for score in scores if score.trained.history}
    return Page(
        title=title,
        command=command(),
        body=[Table(COLUMNS, [score.cells() for score in scores]), _note(data), "![losses](losses.png)"],
        said=[_note(data)],
        numbers={
            "seconds": seconds,
            "fingerprint": data.fingerprint(),
            "networks": [score.summary() for score in scores],
        },
        settings=plain_settings(config),
        figures={"losses.png": lambda: language_model_curves(histories)},
    )


def _count(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"
