"""Trains the runs of a comparison that have no result yet."""

import math
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from lightning_losses.callbacks.interventions.numerics_guard import NotFiniteError
from lightning_losses.data import ImageData
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.environment.source_digest import source_digest
from lightning_losses.experiments.comparison.comparison_plan import Plan, Planned, takes
from lightning_losses.experiments.comparison.shown_numbers import METRICS, SCORES
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.instantiate import essential
from lightning_losses.experiments.evidence.kept_results import KeptResults
from lightning_losses.experiments.kinds.classification import StudentExperiment
from lightning_losses.experiments.kinds.language_models import LanguageModelling
from lightning_losses.experiments.launch import experiment_of
from lightning_losses.experiments.training.evaluation import evaluate, predict_logits
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.step_memory import step_memory
from lightning_losses.experiments.training.training import Training
from lightning_losses.metrics import calibration_summary
from lightning_losses.teachers import CachedLogits

# The code that makes numbers of a trained network.
_MEASURES = (
    "lightning_losses.calibrators.TemperatureScaling",
    "lightning_losses.metrics.calibration_summary",
    "lightning_losses.experiments.training.evaluation.nats_per_byte",
    "lightning_losses.experiments.training.step_memory",
)
# Of the untrained network, where learning rates are compared.
INITIAL = "initial_nll"
# Runs are short, and begun ones begin anew.
_BETWEEN_CHECKPOINTS = 60.0
_FEATURES = ("teacher_features", "teacher_feature_maps")


def student_experiment(config: DictConfig) -> StudentExperiment:
    """The experiment that trains a run.

    Raises:
        ConfigError: one that has no student.
    """
    experiment = experiment_of(config)
    if not isinstance(experiment, StudentExperiment):
        raise ConfigError(
            f"a comparison trains image classifiers or language models, and {type(experiment).__name__} came; leave "
            "experiment=... to the objectives' needs."
        )
    return experiment


class Runner:
    """Trains the runs that have no result; holds the last one's data and teacher, which the next one shares."""

    def __init__(self, config: DictConfig, folder: Path, planned: Plan) -> None:
        self.config = config
        self.planned = planned
        self.checkpoints = folder / "checkpoints"
        self.networks = KeptNetworks(config.cache or cache_folder() / "networks")
        self.results = KeptResults(config.results or cache_folder() / "results")
        self.values: dict[Planned, dict[str, float]] = {}
        self.stale = 0
        self._memory: dict[tuple[str, str], int] = {}
        self._data: dict[str, ImageData] = {}
        self._teacher: tuple[str, nn.Module, CachedLogits] | None = None

    def run_all(self) -> list[str]:
        """Fill in `values`; the sentences of what broke."""
        # Before the first training: the hashes are to be of the code that this process has loaded, not of what somebody
        # writes into the files while it runs.
        for one in self.planned.planned:
            if one.seed == self.planned.seeds[0]:
                for training in student_experiment(one.config).trainings().values():
                    _ = training.source
        source_digest(_MEASURES)
        broken: list[str] = []
        columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        console = Console() if Console().is_terminal else Console(width=120)
        with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
            task = progress.add_task("", total=len(self.planned.planned))
            for one in self.planned.planned:
                name = f"{one.setting + ': ' if one.setting else ''}{one.run}, seed {one.seed}"
                progress.update(task, description=name)
                try:
                    self.values[one] = self.run(one)
                except Exception as error:
                    broken.append(f"{name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
                    console.print(f"broke: {broken[-1]}", highlight=False, markup=False)
                progress.advance(task)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return broken

    def run(self, one: Planned) -> dict[str, float]:
        """The result of a run, kept or made now."""
        config = one.config
        experiment = student_experiment(config)
        networks = experiment.trainings()
        for training in networks.values():
            self._share_data(training)
        student = networks["student"]
        asks_teacher = student.teacher is not None and takes(config, ("teacher_logits", *_FEATURES))
        cached = bool(self.config.cached_logits) and asks_teacher and not takes(config, _FEATURES)
        identity = student.identity
        # The code counts apart from the settings, so that results of other versions can be found if they are asked for.
        sources = [identity["versions"].pop("source"), source_digest(_MEASURES)]
        if asks_teacher:
            sources.append(identity["teacher"]["versions"].pop("source"))
        else:
            identity["teacher"] = None
        settings = essential({**identity, "cached_logits": cached})
        wanted = METRICS
        if self.planned.learning_rates:
            # A result without the untrained network's loss is of no use here.
            settings, wanted = {**settings, INITIAL: True}, (*METRICS, INITIAL)
        source = "-".join(sources)
        kept = self.results.load(settings, source, stale=bool(self.config.stale))
        if kept is not None:
            self.stale += not kept.current
            if kept.current and kept.values.get("memory") is not None:
                self._memory[one.setting, one.run] = int(kept.values["memory"] or 0)
            numbers = {name: kept.values.get(name) for name in wanted}
            return {name: math.nan if value is None else value for name, value in numbers.items()}
        teacher = None
        if asks_teacher and student.teacher is not None:
            teacher = self._teach(student.teacher, student, cached=cached)
        # The same with every seed.
        if (one.setting, one.run) not in self._memory:
            self._memory[one.setting, one.run] = _memory(student, teacher)
        values = {**self._train(experiment, student, teacher), "memory": float(self._memory[one.setting, one.run])}
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.results.save(settings, source, plain)
        return values

    def _train(self, experiment: StudentExperiment, student: Training, teacher: nn.Module | None) -> dict[str, float]:
        clock = _clock()
        begun = clock()
        initial, diverged = {}, dict.fromkeys(METRICS, math.nan)
        try:
            trained = student.run(self.checkpoints, teacher=teacher, checkpoint_seconds=_BETWEEN_CHECKPOINTS)
        except NotFiniteError:
            # At a rate that is too high that is what was to be found out.
            if not self.planned.learning_rates:
                raise
            trained = None
        if trained is not None and not _finite(trained.network):
            if not self.planned.learning_rates:
                raise NotFiniteError("training ended with weights that are infinite or NaN; lower optimizer.lr.")
            trained = None
        seconds = clock() - begun
        if self.planned.learning_rates:
            initial = {INITIAL: experiment.nll(student.build(teacher).get_submodule("network"), student)}
        if trained is None:
            return {**diverged, **initial, "seconds": seconds}
        if isinstance(experiment, LanguageModelling):
            parameters = float(sum(parameter.numel() for parameter in trained.network.parameters()))
            nll = experiment.nll(trained.network, student)
            return {**diverged, **initial, "nll": nll, "seconds": seconds, "parameters": parameters}
        with warnings.catch_warnings():
            # The report can state every temperature.
            warnings.filterwarnings("ignore", message="TemperatureScaling: the best temperature lies outside")
            found = evaluate(trained, student.datamodule)
        values = _scores(found.logits, found.target)
        calibrated = _scores(found.calibrated_logits, found.target)
        return {
            **values,
            # A temperature keeps the prediction.
            **{f"calibrated_{name}": value for name, value in calibrated.items() if name != "accuracy"},
            "temperature": found.temperature,
            "seconds": seconds,
            "parameters": float(found.parameters),
            **initial,
        }

    def _share_data(self, training: Training) -> None:
        """Give the training data that one before it has read; the last two are held, a student's and its teacher's."""
        name = f"{OmegaConf.to_yaml(training.data, resolve=True)} seed {training.seed}"
        if name in self._data:
            training.__dict__["datamodule"] = self._data[name]
        else:
            self._data = {**dict([*self._data.items()][-1:]), name: training.datamodule}

    def _teach(self, training: Training, student: Training, *, cached: bool) -> nn.Module:
        place = f"{self.networks.place(training.identity)} for {student.datamodule.fingerprint()}"
        if self._teacher is None or self._teacher[0] != place:
            network = training.run_once(self.networks, self.checkpoints).network
            self._teacher = place, network, CachedLogits(predict_logits(network, student.datamodule.train))
        return self._teacher[2] if cached else self._teacher[1]


def _memory(training: Training, teacher: nn.Module | None) -> int:
    """The bytes that a step of training holds at its peak beyond weights, data and the optimizer's state."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = training.build(teacher).to(device)
    made: Any = module.configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made

    def step() -> None:
        result: Any = module.training_step(training.first_batch(device=device), 0)
        result["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step_memory(step, device)


def _finite(network: nn.Module) -> bool:
    """Whether training left numbers; a buffer may be a mask, of -inf."""
    weights = all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters())
    return weights and not any(bool(buffer.isnan().any()) for buffer in network.buffers())


def _clock() -> Callable[[], float]:
    # On one thread of a CPU the process's own time, which other programs don't lengthen.
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time if alone else time.perf_counter


def _scores(logits: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    summary = calibration_summary(logits, target, inputs="logits", num_bins=15)
    return {name: float(summary[name]) for name in SCORES}
