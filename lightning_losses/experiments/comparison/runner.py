"""Trains the runs of a comparison that have no result yet."""

import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_losses.callbacks.interventions.numerics_guard import NotFiniteError
from lightning_losses.data import ImageData, ImageDataset
from lightning_losses.environment.cache_folder import cache_folder
from lightning_losses.environment.source_digest import source_digest
from lightning_losses.experiments.comparison.comparison_plan import Plan, Planned, takes
from lightning_losses.experiments.comparison.shown_numbers import METRICS, SCORES, TASK_METRICS
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.instantiate import essential
from lightning_losses.experiments.evidence.kept_results import KeptResults
from lightning_losses.experiments.kinds.classification import ImageClassification, ScoredStudent
from lightning_losses.experiments.launch import experiment_of
from lightning_losses.experiments.training.evaluation import evaluate, predict_logits
from lightning_losses.experiments.training.kept_networks import KeptNetworks
from lightning_losses.experiments.training.stacked import train_stacked, why_one_by_one
from lightning_losses.experiments.training.step_memory import step_memory
from lightning_losses.experiments.training.training import Trained, Training
from lightning_losses.metrics import balanced_accuracy, calibration_summary
from lightning_losses.teachers import CachedLogits

# The code that makes numbers of a trained network.
_MEASURES = (
    "lightning_losses.calibrators.TemperatureScaling",
    "lightning_losses.metrics.balanced_accuracy",
    "lightning_losses.metrics.calibration_summary",
    "lightning_losses.experiments.training.evaluation.nats_per_byte",
    "lightning_losses.experiments.training.step_memory",
)
# Of the untrained network, where learning rates are compared.
INITIAL = "initial_nll"
# Runs are short, and begun ones begin anew.
_BETWEEN_CHECKPOINTS = 60.0
_FEATURES = ("teacher_features", "teacher_feature_maps")


def student_experiment(config: DictConfig) -> ScoredStudent:
    """The experiment that trains a run.

    Raises:
        ConfigError: one that has no student.
    """
    experiment = experiment_of(config)
    if not isinstance(experiment, ScoredStudent):
        raise ConfigError(
            f"a comparison trains one student a run, and {type(experiment).__name__} came; leave "
            "experiment=... to the objectives' needs."
        )
    return experiment


@dataclass(frozen=True)
class _Run:
    """A run, read from its configuration.

    Attributes:
        one: the plan's entry.
        experiment: trains it.
        student: its training.
        asks_teacher: whether its objective uses the teacher's outputs.
        cached: whether the teacher's logits are read from memory.
    """

    one: Planned
    experiment: ScoredStudent
    student: Training
    asks_teacher: bool
    cached: bool


class _Teacher(NamedTuple):
    """A trained teacher, its outputs on a student's training rows, and its accuracy on test data."""

    network: nn.Module
    logits: CachedLogits
    accuracy: float

    def asked(self, run: _Run) -> nn.Module:
        """The teacher's outputs that the run's training uses."""
        return self.logits if run.cached else self.network


class Runner:
    """Trains the runs that have no result; holds the data and the teachers of each seed, which the runs share.

    The seeds of a run are trained at once if one stacked step equals a step of each (`why_one_by_one`), and otherwise
    one by one.

    Args:
        config: of the comparison.
        folder: of the run.
        planned: the runs to train.
        score: the one number that the candidates of a tuning need; None for a comparison of runs.

    Attributes:
        values: the numbers of every run with a result.
        tolerant: whether divergence is a valid result: for candidates, and in a comparison of learning rates.
        broken: a sentence for every run that failed.
        one_by_one: why the seeds of a run were not trained at once, by its label.
        stale: the number of results from another version of the code.
    """

    def __init__(self, config: DictConfig, folder: Path, planned: Plan, *, score: str | None = None) -> None:
        self.config = config
        self.planned = planned
        self.tolerant = score is not None or bool(planned.learning_rates)
        # Candidates are tried for their score alone.
        self.score = score
        self.measures_memory = score is None
        self.checkpoints = folder / "checkpoints"
        self.networks = KeptNetworks(config.cache or cache_folder() / "networks")
        self.results = KeptResults(config.results or cache_folder() / "results")
        self.values: dict[Planned, dict[str, float]] = {}
        self.broken: list[str] = []
        self.one_by_one: dict[str, str] = {}
        self.stale = 0
        self._memory: dict[tuple[str, str], int] = {}
        self._data: dict[str, ImageData] = {}
        self._teachers: dict[str, _Teacher] = {}

    def run_all(self) -> None:
        """Fill in `values`, and `broken`."""
        # Before the first training: the hashes are to be of the code that this process has loaded, not of what somebody
        # writes into the files while it runs.
        for one in self.planned.planned:
            if one.seed == self.planned.seeds[0]:
                for training in student_experiment(one.config).trainings().values():
                    _ = training.source
        source_digest(_MEASURES)
        columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        console = Console() if Console().is_terminal else Console(width=120)
        with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
            task = progress.add_task("", total=len(self.planned.planned))

            def take(group: Sequence[Planned], *, stacked: bool) -> None:
                label = _label(group[0])
                name = f"{label}, {len(group)} seeds" if stacked else f"{label}, seed {group[0].seed}"
                progress.update(task, description=name)
                before = len(self.broken)
                try:
                    self.values.update(self.run_stacked(group) if stacked else {one: self.run(one) for one in group})
                except Exception as error:
                    self._breaks(name, error)
                for sentence in self.broken[before:]:
                    console.print(f"broke: {sentence}", highlight=False, markup=False)
                progress.advance(task, len(group))

            alone: set[Planned] = set()
            for group in self._groups():
                if self._is_stacked(group):
                    take(group, stacked=True)
                else:
                    alone.update(group)
            # One seed of every run after the other: what an interrupted comparison has is balanced.
            for one in self.planned.planned:
                if one in alone:
                    take([one], stacked=False)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def run(self, one: Planned) -> dict[str, float]:
        """The result of a run, kept or made now."""
        run = self._read(one)
        kept = self._kept(run, stacked=False)
        if kept is not None:
            return kept
        (teacher,) = self._teach([run]) if run.asks_teacher else [None]
        asked = None if teacher is None else teacher.asked(run)
        clock = _clock()
        begun = clock()
        try:
            trained = run.student.run(self.checkpoints, teacher=asked, checkpoint_seconds=_BETWEEN_CHECKPOINTS)
        except NotFiniteError:
            # At a rate that is too high that is what was to be found out.
            if not self.tolerant:
                raise
            trained = None
        return self._keep(run, self._measure(run, teacher, trained, clock() - begun), teacher, stacked=False)

    def run_stacked(self, group: Sequence[Planned]) -> dict[Planned, dict[str, float]]:
        """The results of a run's seeds, kept or trained at once now."""
        runs = [self._read(one) for one in group]
        values = {run.one: self._kept(run, stacked=True) for run in runs}
        waiting = [run for run in runs if values[run.one] is None]
        if waiting:
            teachers = self._teach(waiting) if waiting[0].asks_teacher else None
            asked = None if teachers is None else [teacher.logits for teacher in teachers]
            clock = _clock()
            begun = clock()
            networks = train_stacked([run.student for run in waiting], asked)
            seconds = (clock() - begun) / len(waiting)
            for number, (run, trained) in enumerate(zip(waiting, networks, strict=True)):
                teacher = None if teachers is None else teachers[number]
                try:
                    numbers = self._measure(run, teacher, trained, seconds)
                except NotFiniteError as error:
                    self._breaks(f"{_label(run.one)}, seed {run.one.seed}", error)
                else:
                    values[run.one] = self._keep(run, numbers, teacher, stacked=True)
        return {one: numbers for one, numbers in values.items() if numbers is not None}

    def _breaks(self, name: str, error: Exception) -> None:
        self.broken.append(f"{name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")

    def _groups(self) -> list[list[Planned]]:
        """The plan's runs, grouped if only their seed differs."""
        groups: dict[tuple[str, str], list[Planned]] = {}
        for one in self.planned.planned:
            groups.setdefault((one.setting, one.run), []).append(one)
        return list(groups.values())

    def _is_stacked(self, group: Sequence[Planned]) -> bool:
        """Whether these seeds are trained at once."""
        if not self.config.stacked or len(group) == 1:
            return False
        try:
            if takes(group[0].config, _FEATURES):
                reason: str | None = "it takes the teacher's features, which are not kept"
            else:
                reason = self._why_one_by_one([self._read(one) for one in group])
        except Exception as error:
            # It is told, seed by seed, when they are run.
            reason = f"it can't be tried ({type(error).__name__})"
        if reason is not None:
            self.one_by_one[group[0].run] = reason
        return reason is None

    def _why_one_by_one(self, runs: Sequence[_Run]) -> str | None:
        if type(runs[0].experiment) is not ImageClassification:
            return "it is no image classifier"
        students = [run.student for run in runs]
        # Of the right shape; what a teacher says is not needed to see whether a step can be stacked.
        rows = len(students[0].datamodule.train)
        silent = CachedLogits(torch.zeros(rows, students[0].datamodule.num_classes)) if runs[0].cached else None
        return why_one_by_one(students, None if silent is None else [silent] * len(students))

    def _read(self, one: Planned) -> _Run:
        config = one.config
        experiment = student_experiment(config)
        networks = experiment.trainings()
        for training in networks.values():
            # Those of student and teacher are held for every seed.
            share_data(training, self._data, most=2 * len(self.planned.seeds))
        student = networks["student"]
        asks_teacher = student.teacher is not None and takes(config, ("teacher_logits", *_FEATURES))
        cached = bool(self.config.cached_logits) and asks_teacher and not takes(config, _FEATURES)
        return _Run(one, experiment, student, asks_teacher, cached)

    def _place(self, run: _Run, *, stacked: bool) -> tuple[dict[str, Any], str]:
        """The settings that decide a result, and the hashes of the code that makes it."""
        identity = run.student.identity
        # The code counts apart from the settings, so that results of other versions can be found if they are asked for.
        sources = [identity["versions"].pop("source"), source_digest(_MEASURES)]
        if run.asks_teacher:
            sources.append(identity["teacher"]["versions"].pop("source"))
        else:
            identity["teacher"] = None
        settings = essential({**identity, "cached_logits": run.cached})
        if stacked:
            sources.append(source_digest(["lightning_losses.experiments.training.stacked"]))
            settings = {**settings, "stacked": True}
        if self.planned.learning_rates:
            # A result without the untrained network's loss is of no use here.
            settings = {**settings, INITIAL: True}
        return settings, "-".join(sources)

    def _kept(self, run: _Run, *, stacked: bool) -> dict[str, float] | None:
        kept = self.results.load(*self._place(run, stacked=stacked), stale=bool(self.config.stale))
        if kept is None:
            return None
        if kept.current and not self._is_whole(kept.values):
            return None
        self.stale += not kept.current
        if kept.current and kept.values.get("memory") is not None:
            self._memory[run.one.setting, run.one.run] = int(kept.values["memory"] or 0)
        wanted = [*METRICS, *(name for name in TASK_METRICS if name in kept.values)]
        wanted += [INITIAL] if self.planned.learning_rates else []
        numbers = {name: kept.values.get(name) for name in wanted}
        return {name: math.nan if value is None else value for name, value in numbers.items()}

    def _is_whole(self, values: Mapping[str, float | None]) -> bool:
        """Whether a kept result has all requested numbers: a candidate's result, or an older one, may lack some."""
        if self.score is not None:
            return self.score in values
        return values.get("memory") is not None and not set(METRICS) - values.keys()

    def _keep(
        self, run: _Run, values: dict[str, float], teacher: _Teacher | None, *, stacked: bool
    ) -> dict[str, float]:
        place = run.one.setting, run.one.run
        # The same with every seed.
        if place not in self._memory and self.measures_memory:
            self._memory[place] = _memory(run.student, None if teacher is None else teacher.asked(run))
        values = {**values, "memory": float(self._memory.get(place, math.nan))}
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.results.save(*self._place(run, stacked=stacked), plain)
        return values

    def _measure(
        self, run: _Run, teacher: _Teacher | None, trained: Trained | None, seconds: float
    ) -> dict[str, float]:
        """The numbers of a trained network; None for a network that diverged."""
        initial, diverged = {}, dict.fromkeys(METRICS, math.nan)
        student = run.student
        if trained is not None and not _finite(trained.network):
            if not self.tolerant:
                raise NotFiniteError("training ended with weights that are infinite or NaN; lower optimizer.lr.")
            trained = None
        if self.planned.learning_rates:
            untrained = student.build(None if teacher is None else teacher.asked(run)).get_submodule("network")
            initial = {INITIAL: run.experiment.nll(untrained, student)}
        if trained is None:
            return {**diverged, **initial, "seconds": seconds}
        numbers = run.experiment.numbers(trained, student)
        if numbers is not None:
            parameters = float(sum(parameter.numel() for parameter in trained.network.parameters()))
            # What learning rates are compared by, also of a task whose own numbers have none.
            final = {"nll": run.experiment.nll(trained.network, student)} if self.planned.learning_rates else {}
            return {**diverged, **initial, **final, **numbers, "seconds": seconds, "parameters": parameters}
        with warnings.catch_warnings():
            # The report can state every temperature.
            warnings.filterwarnings("ignore", message="TemperatureScaling: the best temperature lies outside")
            found = evaluate(trained, student.datamodule)
        values = _scores(found.logits, found.target)
        calibrated = _scores(found.calibrated_logits, found.target)
        return {
            **values,
            "balanced_accuracy": float(
                balanced_accuracy(found.logits.argmax(dim=-1), found.target, found.logits.shape[-1])
            ),
            **_validation(trained.network, student.datamodule.val),
            "overconfidence": float(found.logits.softmax(dim=-1).amax(dim=-1).double().mean()) - values["accuracy"],
            "teacher_accuracy": math.nan if teacher is None else teacher.accuracy,
            # A temperature keeps the prediction.
            **{f"calibrated_{name}": value for name, value in calibrated.items() if name != "accuracy"},
            "temperature": found.temperature,
            "seconds": seconds,
            "parameters": float(found.parameters),
            **initial,
        }

    def _teach(self, runs: Sequence[_Run]) -> list[_Teacher]:
        """The runs' teachers, loaded or trained now; one for each seed is held in memory."""
        places = {}
        for run in runs:
            assert run.student.teacher is not None
            identity = self.networks.place(run.student.teacher.identity)
            places[run.one] = f"{identity} for {run.student.datamodule.fingerprint()}"
        new = {places[run.one]: run for run in runs if places[run.one] not in self._teachers}
        if new:
            students = [run.student for run in new.values()]
            networks = self._trained([student.teacher for student in students if student.teacher is not None])
            made = {
                place: _Teacher(
                    network,
                    CachedLogits(predict_logits(network, student.datamodule.train)),
                    _accuracy(network, student.datamodule.test),
                )
                for place, network, student in zip(new, networks, students, strict=True)
            }
            held = {place: teacher for place, teacher in self._teachers.items() if place in places.values()}
            self._teachers = {**held, **made}
        return [self._teachers[places[run.one]] for run in runs]

    def _trained(self, trainings: Sequence[Training]) -> list[nn.Module]:
        """The networks of trainings, kept or trained now, at once where that can be."""
        kept = [training.kept(self.networks) for training in trainings]
        waiting = [training for training, trained in zip(trainings, kept, strict=True) if trained is None]
        if self.config.stacked and len(waiting) > 1 and why_one_by_one(waiting) is None:
            for training, trained in zip(waiting, train_stacked(waiting), strict=True):
                training.keep(self.networks, trained)
        return [training.run_once(self.networks, self.checkpoints).network for training in trainings]


def share_data(training: Training, held: dict[str, ImageData], most: int) -> None:
    """Give a training the data that an earlier one has read.

    Args:
        training: which has not read its data yet.
        held: the data by their settings; the new ones are added, and the oldest leave.
        most: how many are held.
    """
    name = f"{OmegaConf.to_yaml(training.data, resolve=True)} seed {training.seed}"
    if name not in held:
        while len(held) >= most:
            del held[next(iter(held))]
        held[name] = training.datamodule
    training.__dict__["datamodule"] = held[name]


def _accuracy(network: nn.Module, split: ImageDataset) -> float:
    return float((predict_logits(network, split).argmax(dim=-1) == split.target).double().mean())


def _validation(network: nn.Module, split: ImageDataset) -> dict[str, float]:
    logits = predict_logits(network, split).double()
    correct = logits.argmax(dim=-1) == split.target
    return {"val_accuracy": float(correct.double().mean()), "val_nll": float(cross_entropy(logits, split.target))}


def _label(one: Planned) -> str:
    return f"{one.setting + ': ' if one.setting else ''}{one.run}"


def _memory(training: Training, teacher: nn.Module | None) -> int:
    """The peak memory of a training step in bytes, beyond weights, data and the optimizer's state."""
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
    """Whether the weights are finite after training; a buffer may be a mask of -inf."""
    weights = all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters())
    return weights and not any(bool(buffer.isnan().any()) for buffer in network.buffers())


def _clock() -> Callable[[], float]:
    # On one thread of a CPU the process's own time, which other programs don't lengthen.
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time if alone else time.perf_counter


def _scores(logits: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    summary = calibration_summary(logits, target, inputs="logits", num_bins=15)
    return {name: float(summary[name]) for name in SCORES}
