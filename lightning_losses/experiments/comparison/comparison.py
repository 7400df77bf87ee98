"""Trains every run of a comparison that has no result yet, and writes the report of all."""

import math
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping
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
from lightning_losses.experiments.comparison.comparison_plan import Plan, Planned, plan, takes
from lightning_losses.experiments.comparison.comparison_report import Comparison
from lightning_losses.experiments.comparison.learning_rates import LearningRates
from lightning_losses.experiments.comparison.shown_numbers import METRICS, SCORES
from lightning_losses.experiments.config.check_config import ConfigError, runs_again
from lightning_losses.experiments.config.check_overrides import check_overrides
from lightning_losses.experiments.config.settings import TrainSettings
from lightning_losses.experiments.evidence.claims import Claim
from lightning_losses.experiments.evidence.kept_results import KeptResults
from lightning_losses.experiments.kinds.classification import StudentExperiment
from lightning_losses.experiments.kinds.language_models import LanguageModelling
from lightning_losses.experiments.launch import Experiment, experiment_of
from lightning_losses.experiments.loggers.loggers import log_folder, plain_settings
from lightning_losses.experiments.training.evaluation import evaluate, predict_logits
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.sources import essential, source_digest
from lightning_losses.experiments.training.step_memory import step_memory
from lightning_losses.experiments.training.training import Training
from lightning_losses.metrics import calibration_summary
from lightning_losses.teachers import CachedLogits

# The code that makes numbers of a trained network.
_MEASURES = (
    "lightning_losses.calibrators.TemperatureScaling",
    "lightning_losses.metrics.calibration_summary",
    "lightning_losses.experiments.kinds.language_models.nats_per_byte",
    "lightning_losses.experiments.training.step_memory",
)
# Of the untrained network, where learning rates are compared.
_INITIAL = "initial_nll"
# Runs are short, and begun ones begin anew.
_BETWEEN_CHECKPOINTS = 60.0
_FEATURES = ("teacher_features", "teacher_feature_maps")


class ObjectiveComparison(Experiment):
    """Every objective in every setting with every seed, a run after the other in this process.

    The result of a run is kept as soon as it is finished, under its whole configuration, its data, its teacher and the
    code that these lead to: an interrupted comparison started again goes on, an edit of one loss repeats the runs of
    that loss alone. A run that breaks is told, and the others go on.
    """

    no_sweep = "a sweep of comparisons has no table of its own; leave out -m, and name settings=[...]."

    def rehearse(self) -> None:
        """Check every run's words, and take a step of every objective in the first setting, of the first one in all.

        Raises:
            ConfigError: as `plan` raises it; runs that can't be compared.
        """
        if runs_again(self.config.trainer):
            raise ConfigError(
                "trainer: a comparison trains many networks and compares them in one process; use trainer=ddp_fork, or "
                "one device."
            )
        planned = plan(self.config, self.overrides)
        first = next(iter(planned.settings)), next(iter(planned.runs))
        tried = [
            one
            for one in planned.planned
            if one.seed == planned.seeds[0] and (one.setting == first[0] or one.run == first[1])
        ]
        for one in tried:
            try:
                check_overrides("train", one.overrides, TrainSettings)
            except ConfigError as error:
                raise ConfigError(f"{one.setting + ', ' if one.setting else ''}{one.run}: {error}") from None
        for one in tried:
            experiment = _experiment(one.config)
            if isinstance(experiment, LanguageModelling) and not planned.learning_rates:
                raise ConfigError(
                    "a comparison of language models is one over learning rates; give learning_rates=[0.001,0.01], or "
                    "train the models by recipes/train.py."
                )
            experiment.trainings()["student"].rehearse()

    def perform(self, folder: Path) -> Comparison:
        """Compare, and leave with code 1 if a run broke."""
        comparison = self.compare(folder)
        if comparison.broken:
            sys.exit(1)
        return comparison

    def compare(self, folder: Path) -> Comparison:
        """Train what has no result yet, and write the report into the run's folder.

        Raises:
            ConfigError: as `plan` raises it; a claim on what there isn't.
        """
        started = time.perf_counter()
        config = self.config
        planned = plan(config, self.overrides)
        claims = [Claim.read(node) for node in OmegaConf.to_container(config.claims, resolve=True)]  # type: ignore[union-attr, arg-type]
        runner = _Runner(config, folder, planned)
        broken = runner.run_all()
        settings, over_rates = planned.settings, None
        if planned.learning_rates:
            settings, over_rates = {"": ""}, _over_learning_rates(planned, runner.values)
        comparison = Comparison(
            title=str(config.title),
            command=self.command,
            settings=settings,
            runs=planned.runs,
            baseline=planned.baseline,
            seeds=planned.seeds,
            values=_by_metric(planned, runner.values) if over_rates is None else {"": over_rates.summary()},
            columns=tuple(map(str, config.columns)),
            claims=tuple(claims),
            untested=tuple(map(str, config.untested)),
            caveat=str(config.caveat).strip(),
            broken=broken,
            stale=runner.stale,
            config=plain_settings(config),
            seconds=time.perf_counter() - started,
            learning_rates=over_rates,
        )
        page = comparison.page()
        page.write(folder / "report")
        log_folder(config, folder, {} if over_rates is None else over_rates.scalars())
        page.show()
        text = f"{comparison.seconds:.0f} s. The report is in {folder / 'report'}"
        Console(soft_wrap=True, highlight=False).print(text)
        return comparison


def _by_metric(
    planned: Plan, values: Mapping[Planned, Mapping[str, float]]
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """By setting, run and metric, a number a seed."""
    missing = dict.fromkeys(METRICS, math.nan)
    found = {(one.setting, one.run, one.seed): values.get(one, missing) for one in planned.planned}
    return {
        setting: {
            run: {metric: [found[setting, run, seed][metric] for seed in planned.seeds] for metric in METRICS}
            for run in planned.runs
        }
        for setting in planned.settings
    }


def _over_learning_rates(planned: Plan, values: Mapping[Planned, Mapping[str, float]]) -> LearningRates:
    """What the settings are points of, where they are learning rates."""
    one = {(one.setting, one.run, one.seed): values.get(one) for one in planned.planned}

    def seeds(setting: str, run: str, metric: str) -> list[float | None]:
        found = [one[setting, run, seed] for seed in planned.seeds]
        return [None if number is None else number[metric] for number in found]

    return LearningRates(
        tuple(planned.learning_rates.values()),
        final={run: [seeds(setting, run, "nll") for setting in planned.settings] for run in planned.runs},
        initial={run: [seeds(setting, run, _INITIAL) for setting in planned.settings] for run in planned.runs},
        seconds={run: [seeds(setting, run, "seconds") for setting in planned.settings] for run in planned.runs},
    )


def _experiment(config: DictConfig) -> StudentExperiment:
    experiment = experiment_of(config)
    if not isinstance(experiment, StudentExperiment):
        raise ConfigError(
            f"a comparison trains image classifiers or language models, and {type(experiment).__name__} came; leave "
            "experiment=... to the objectives' needs."
        )
    return experiment


class _Runner:
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
                for training in _experiment(one.config).trainings().values():
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
        experiment = _experiment(config)
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
            settings, wanted = {**settings, _INITIAL: True}, (*METRICS, _INITIAL)
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
        seconds = clock() - begun
        if self.planned.learning_rates:
            initial = {_INITIAL: experiment.nll(student.build(teacher).get_submodule("network"), student)}
        if trained is None or not all(torch.isfinite(tensor).all() for tensor in trained.network.state_dict().values()):
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
        loss: Any = training.loss(module)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step_memory(step, device)


def _clock() -> Callable[[], float]:
    # On one thread of a CPU the process's own time, which other programs don't lengthen.
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time if alone else time.perf_counter


def _scores(logits: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    summary = calibration_summary(logits, target, inputs="logits", num_bins=15)
    return {name: float(summary[name]) for name in SCORES}
