"""Train, calibrate, evaluate and report.

    python recipes/train.py                                            # distil a teacher into a student, on MNIST-5k
    python recipes/train.py experiment=distill objective=sinkd data=digits
    python recipes/train.py -m objective=kd,nkd,sinkd seed=0,1,2       # a sweep; teachers are trained once

`--help` lists the choices and the whole configuration.
"""

import time
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console

from lightning_losses.data.cache import cache_folder
from lightning_losses.recipe.evaluation import evaluate
from lightning_losses.recipe.kept_networks import KeptNetworks
from lightning_losses.recipe.launch import command, launch
from lightning_losses.recipe.loggers import log_report, make_logger, plain_settings
from lightning_losses.recipe.training import Trained, Training, Weights
from lightning_losses.report import Report


class Settings:
    """The types of the configuration's plain values."""

    seed: int
    teacher_seed: int
    weights: Weights
    threads: int | None
    debug: bool
    resume: str | None
    output: str
    cache: str | None


def train(config: DictConfig, folder: Path) -> Report:
    """Train what the experiment names, evaluate it, and write the report into the run's folder."""
    started = time.perf_counter()
    console = Console(soft_wrap=True, highlight=False)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    kept = KeptNetworks(config.cache or cache_folder() / "networks")

    teacher = _training("teacher", config, config.teacher_seed) if config.modules.teacher else None
    baseline = _training("baseline", config, config.seed) if config.modules.baseline else None
    student = _training("student", config, config.seed, teacher)
    for training in (teacher, baseline, student):
        if training is not None:
            training.rehearse()

    checkpoints, resume = folder / "checkpoints", config.resume is not None
    trained: list[Trained] = []
    for training in (teacher, baseline):
        if training is not None:
            trained.append(training.run_once(kept, checkpoints, resume=resume))
            if trained[-1].kept:
                console.print(f"{training.label}: trained before, kept in {kept.place(training.identity)}")
    logger = make_logger(config, folder)
    trained.append(student.run(checkpoints, resume=resume, logger=logger,
                               teacher=trained[0].network if teacher is not None else None))

    evaluations = [evaluate(network, student.datamodule) for network in trained]
    report = Report(title=f"{student.label} on {student.datamodule.name}, seed {config.seed}", evaluations=evaluations,
                    settings=plain_settings(config), command=command(), seconds=time.perf_counter() - started)
    pictures = report.write(folder / "report")
    log_report(logger, report, pictures)
    report.show()
    console.print(f"{report.seconds:.0f} s. The report is in {folder / 'report'}")
    return report


def _training(name: str, config: DictConfig, seed: int, teacher: Training | None = None) -> Training:
    return Training(name=name, module=config.modules[name], data=config.data, trainer=config.trainer,
                    scheduler=config.get("scheduler"), callbacks=config.get("callbacks"), seed=seed,
                    weights=config.weights, teacher=teacher)


def main() -> None:
    """Start from the command line."""
    launch(train, config_name="train", schema=Settings)


if __name__ == "__main__":
    main()
