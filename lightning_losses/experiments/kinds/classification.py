"""Trains a teacher, a baseline and a student; scores image classifiers before and after calibration."""

import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from torch import nn

from lightning_losses.callbacks.records.metrics_file import finish_metrics
from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.experiments.config.check_config import ConfigError, check_node, check_writable, nearest
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import (
    log_checkpoints,
    log_report,
    log_scores,
    logging_run,
    plain_settings,
)
from lightning_losses.experiments.training.evaluation import evaluate, predict_logits
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.report import SCORE_NAMES, Report
from lightning_losses.experiments.training.teacher_cache import cached_teacher, check_cache
from lightning_losses.experiments.training.training import Trained, Training, training_of
from lightning_losses.metrics import negative_log_likelihood


def trainings(config: DictConfig, modules: DictConfig, *, shows_inputs: bool = True) -> dict[str, Training]:
    """The networks that an experiment trains, in order; the student is the last.

    The teacher's data, trainer and optimizer are the student's, changed by `teacher_data`, `teacher_trainer` and
    `teacher_optimizer`.

    Args:
        config: the configuration of the train recipe.
        modules: the modules' configurations by the networks' names; null for a network that isn't used.
        shows_inputs: see `Training`.
    """
    planned: dict[str, Training] = {}
    for name in ("teacher", "baseline", "student"):
        if modules.get(name) is not None:
            own = name == "teacher"
            planned[name] = training_of(
                config,
                name,
                _with(modules, name, {"optimizer": config.get("teacher_optimizer") if own else None}),
                data=_with(config, "data", config.get("teacher_data") if own else None),
                trainer=_with(config, "trainer", config.get("teacher_trainer") if own else None),
                seed=config.teacher_seed if own else config.seed,
                weights=config.weights,
                teacher=planned.get("teacher") if name == "student" else None,
                checkpoint=config.teacher_weights if own else None,
                execution=config.get("execution") or None,
                shows_inputs=shows_inputs,
            )
    if "student" not in planned:
        raise ConfigError("modules.student: it is missing, and a run needs it; choose an experiment, or add it.")
    return planned


def _with(config: DictConfig, part: str, further: Any) -> DictConfig:
    """A part of the configuration with some values changed; None if there are no changes."""
    plain = config[part]
    assert isinstance(plain, DictConfig)
    if not (any(further.values()) if isinstance(further, dict) else further):
        return plain
    # A new key is an argument with a default, or a mistake.
    with open_dict(plain):
        merged = OmegaConf.merge(plain, further)
    assert isinstance(merged, DictConfig)
    merged._set_parent(config)
    path = f"modules.{part}" if isinstance(further, dict) else f"teacher_{part}"
    check_node(path, OmegaConf.to_container(merged, resolve=True))
    return merged


class ScoredStudent(Experiment):
    """One student with numbers of its own, which a comparison trains with many objectives and seeds."""

    @abstractmethod
    def trainings(self) -> dict[str, Training]:
        """The networks by name, in order; the student is the last."""

    @abstractmethod
    def nll(self, network: nn.Module, student: Training) -> float:
        """The mean negative log-likelihood on the student's test split."""

    def numbers(self, trained: Trained, student: Training) -> dict[str, float] | None:
        """What a comparison shows of a trained network, by metric; None where it measures the logits itself."""
        return None


class StudentExperiment(ScoredStudent):
    """One student, trained after a teacher and a baseline.

    Teacher and baseline are trained once, and kept under a hash of their configuration, code and data.

    Attributes:
        score_names: the names of the numbers that only the report has, not the logs.
    """

    score_names: ClassVar[Sequence[str]] = ()

    @property
    def _kept(self) -> KeptNetworks:
        return KeptNetworks(self.config.cache or cache_folder() / "networks")

    @property
    def _logits(self) -> Path:
        return self._kept.folder / "logits"

    @abstractmethod
    def report(self, student: Training, trained: Sequence[Trained], started: float) -> Any:
        """The report on all networks, with `page`, `scores` and the run's `seconds`."""

    @abstractmethod
    def log(self, logger: Logger | None, report: Any, pictures: Sequence[Path]) -> None:
        """Send a report to the logger."""

    def rehearse(self) -> None:
        """Take a step with every network."""
        networks = self.trainings()
        if self.config.trainer.get("limit_val_batches") == 0:
            raise ConfigError(
                "trainer.limit_val_batches=0: the report shows what validation found; give at least 1, or null for all."
            )
        epochs, every = self.config.trainer.max_epochs, self.config.trainer.get("check_val_every_n_epoch") or 1
        if self.config.weights == "best" and every > epochs:
            raise ConfigError(
                f"trainer.check_val_every_n_epoch={every}: in {epochs} epochs there would be no validation, which "
                "weights=best needs; give a smaller number, or weights=last."
            )
        if self.config.teacher_cache is not None and "teacher" in networks:
            check_cache(networks["student"], self.config.teacher_cache)
            check_writable("teacher_cache", self._logits)
        if len(networks) > 1:
            check_writable("cache", self._kept.folder)
        for training in networks.values():
            logged = training.rehearse(self.resumed)
        metric = self.config.get("optimized_metric")
        known = logged | set(self.score_names)
        if metric is not None and metric not in known and not networks["student"].callbacks_log:
            raise ConfigError(f"optimized_metric={metric}: the run reports no such number; {nearest(metric, known)}")

    def perform(self, folder: Path) -> Any:
        """Train the networks and report on them; None in further processes that Lightning started."""
        started = time.perf_counter()
        config, console = self.config, Console(soft_wrap=True, highlight=False)
        checkpoints, resume = folder / "checkpoints", config.resume is not None
        *before, student = self.trainings().values()
        trained, teacher = self._before(before, student, checkpoints, console) if before else ([], None)
        metrics = folder / "metrics.jsonl"
        with logging_run(config, folder) as logger:
            trained.append(
                student.run(checkpoints, resume=resume, logger=logger, teacher=teacher, metrics_file=metrics)
            )
            if not first_process():
                # Lightning started the command again for this process; only the first one reports.
                return None
            report = self.report(student, trained, started)
            page = report.page()
            pictures = page.write(folder / "report")
            # The monitors' pictures.
            pictures += sorted(set((folder / "report").glob("*.png")) - set(pictures))
            self.log(logger, report, pictures)
            log_checkpoints(logger, checkpoints / "student", "student", report.scores())
        page.show()
        # Written last, because it marks the end of the run.
        finish_metrics(metrics, report.scores())
        console.print(f"{report.seconds:.0f} s. The report is in {folder / 'report'}")
        return report

    def _before(
        self, before: Sequence[Training], student: Training, checkpoints: Path, console: Console
    ) -> tuple[list[Trained], nn.Module | None]:
        """The networks trained before the student, and the teacher that the student gets."""
        config = self.config
        kept, trained = self._kept, []
        for training in before:
            trained.append(training.run_once(kept, checkpoints, resume=config.resume is not None))
            if trained[-1].kept:
                console.print(f"{training.label}: trained before, kept in {kept.place(training.identity)}")
        teacher = next((network.network for network in trained if network.name == "teacher"), None)
        if teacher is not None and config.teacher_cache is not None:
            temperature = config.teacher_cache_temperature
            teacher = cached_teacher(teacher, student, self._logits, kept=config.teacher_cache, temperature=temperature)
        return trained, teacher


class ImageClassification(StudentExperiment):
    """Image classifiers: trained, calibrated on validation data, and scored on test data."""

    score_names = SCORE_NAMES

    def trainings(self) -> dict[str, Training]:
        """The networks of ``config.modules``."""
        return trainings(self.config, self.config.modules)

    def nll(self, network: nn.Module, student: Training) -> float:
        """In nats per image."""
        test = student.datamodule.test
        return negative_log_likelihood(predict_logits(network, test), test.target, inputs="logits").item()

    def report(self, student: Training, trained: Sequence[Trained], started: float) -> Report:
        """Scores before and after calibration."""
        return Report(
            title=f"{student.label} on {student.datamodule.name}, seed {self.config.seed}",
            command=self.command,
            evaluations=[evaluate(network, student.datamodule) for network in trained],
            settings=plain_settings(self.config),
            seconds=time.perf_counter() - started,
        )

    def log(self, logger: Logger | None, report: Report, pictures: Sequence[Path]) -> None:
        """Send the scores (as those of the last epoch), the table and the pictures."""
        log_scores(logger, {**report.scores(), "epoch": self.config.trainer.max_epochs})
        log_report(logger, report, pictures)
