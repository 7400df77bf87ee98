"""Train, calibrate, evaluate and report.

    python recipes/train.py                                            # distil a teacher into a student, on MNIST-5k
    python recipes/train.py experiment=distill objective=sinkd data=digits
    python recipes/train.py experiment=calibration_overlap             # a comparison, as recipes/compare.py makes them
    python recipes/train.py -m objective=kd,nkd,sinkd seed=0,1,2       # a sweep; teachers are trained once

`--help` lists the choices and the whole configuration.
"""

import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from lightning_losses.callbacks.records.metrics_file import append_metrics, last_metric
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.experiments.comparison.comparison_plan import comparisons
from lightning_losses.experiments.kinds.embeddings import distill_embeddings
from lightning_losses.experiments.kinds.embeddings import rehearse as rehearse_embeddings
from lightning_losses.experiments.kinds.generations import rehearse as rehearse_generations
from lightning_losses.experiments.kinds.generations import train_generations
from lightning_losses.experiments.kinds.grok import grok
from lightning_losses.experiments.kinds.grok import rehearse as rehearse_runs
from lightning_losses.experiments.kinds.language_models import rehearse as rehearse_language_models
from lightning_losses.experiments.kinds.language_models import train_language_models
from lightning_losses.experiments.launch import command, launch
from lightning_losses.experiments.loggers.loggers import (
    log_checkpoints,
    log_report,
    log_scores,
    logging_run,
    plain_settings,
)
from lightning_losses.experiments.report import Report
from lightning_losses.experiments.training.evaluation import evaluate
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.processes import first_process
from lightning_losses.experiments.training.teacher_cache import cached_teacher
from lightning_losses.experiments.training.training import Trained, Weights
from lightning_losses.experiments.training.trainings import trainings


class Settings:
    """The types of the configuration's plain values."""

    seed: int
    teacher_seed: int
    teacher_weights: str | None
    teacher_cache: str | int | None
    teacher_cache_temperature: float
    weights: Weights
    threads: int | None
    debug: bool
    optimized_metric: str | None
    resume: str | None
    output: str
    cache: str | None
    allowed_targets: list[str]


def rehearse(config: DictConfig) -> None:
    """Take one step with every network, so that what can't work is known before anything was trained."""
    if "runs" in config:
        rehearse_runs(config)
        return
    if "language_models" in config:
        rehearse_language_models(config)
        return
    if "embeddings" in config:
        rehearse_embeddings(config)
        return
    if "generations" in config:
        rehearse_generations(config)
        return
    for training in trainings(config).values():
        training.rehearse()


def train(config: DictConfig, folder: Path) -> Any:
    """Train what the experiment names, evaluate it, and write the report into the run's folder."""
    started = time.perf_counter()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if "runs" in config:
        # Several variants of one network, watched while they grok, have a report of their own.
        return grok(config, folder)
    if "language_models" in config:
        return train_language_models(config, folder)
    if "embeddings" in config:
        return distill_embeddings(config, folder)
    if "generations" in config:
        # Networks that teach each other in a row have a report of their own.
        return train_generations(config, folder)
    console = Console(soft_wrap=True, highlight=False)
    kept = KeptNetworks(config.cache or cache_folder() / "networks")
    checkpoints, resume = folder / "checkpoints", config.resume is not None

    *before, student = trainings(config).values()
    trained: list[Trained] = []
    for training in before:
        trained.append(training.run_once(kept, checkpoints, resume=resume))
        if trained[-1].kept:
            console.print(f"{training.label}: trained before, kept in {kept.place(training.identity)}")
    teacher = next((network.network for network in trained if network.name == "teacher"), None)
    if teacher is not None and config.teacher_cache is not None:
        place, temperature = kept.folder / "logits", config.teacher_cache_temperature
        teacher = cached_teacher(teacher, student, place, kept=config.teacher_cache, temperature=temperature)
    metrics = folder / "metrics.jsonl"
    with logging_run(config, folder) as logger:
        trained.append(student.run(checkpoints, resume=resume, logger=logger, teacher=teacher, metrics_file=metrics))
        if not first_process():
            # Lightning ran the command again for this process; the first one reports.
            return None
        report = Report(
            title=f"{student.label} on {student.datamodule.name}, seed {config.seed}",
            command=command(),
            evaluations=[evaluate(network, student.datamodule) for network in trained],
            settings=plain_settings(config),
            seconds=time.perf_counter() - started,
        )
        page = report.page()
        pictures = page.write(folder / "report")
        # What monitors drew.
        pictures += sorted(set((folder / "report").glob("*.png")) - set(pictures))
        scores = report.scores()
        log_scores(logger, {**scores, "epoch": config.trainer.max_epochs})
        log_report(logger, report, pictures)
        log_checkpoints(logger, checkpoints / "student", "student", scores)
    page.show()
    # Last: who watches the run knows by it that the run is done.
    append_metrics(metrics, {**scores, "finished": True})
    console.print(f"{report.seconds:.0f} s. The report is in {folder / 'report'}")
    return report


def run(config: DictConfig, folder: Path) -> Any:
    """Train; the number that a sweeper of Hydra's asks for, or else the report."""
    report = train(config, folder)
    if config.optimized_metric is None:
        return report
    return last_metric(folder / "metrics.jsonl", config.optimized_metric)


def main() -> None:
    """Start from the command line; an experiment that is a comparison is handed to the recipe of comparisons."""
    for place, word in enumerate(sys.argv):
        if word.removeprefix("experiment=") in comparisons() and word.startswith("experiment="):
            from lightning_losses.recipes import compare

            sys.argv[place] = word.replace("experiment=", "comparison=", 1)
            # The report says what started it, and an interruption what goes on with it.
            sys.argv[0] = re.sub(r"train(\.py)?$", r"compare\1", sys.argv[0])
            compare.main()
            return
    launch(run, rehearse, config_name="train", schema=Settings)


if __name__ == "__main__":
    main()
