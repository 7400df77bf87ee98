"""Trains the runs of a grokking experiment side by side, and reports curves, delays and gates."""

import copy
import logging
import math
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lightning_losses.callbacks.interventions.numerics_guard import NotFiniteError
from lightning_losses.callbacks.monitors.grokking_monitor import GrokkingMonitor
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.callbacks.monitors.softmax_collapse import SoftmaxCollapse
from lightning_losses.callbacks.records.metrics_file import MetricsFile, finish_metrics
from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints
from lightning_losses.checkpoints.last_checkpoint import LastCheckpoint
from lightning_losses.checkpoints.resumption import begin, check_resumption
from lightning_losses.data.resident import ResidentData
from lightning_losses.experiments.config.check_config import (
    ConfigError,
    check_config,
    check_trainer,
    forks,
    nearest,
    runs_beside_others,
)
from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.experiments.config.settings import TrainSettings
from lightning_losses.experiments.evidence.gates import Gate
from lightning_losses.experiments.launch import Experiment
from lightning_losses.experiments.loggers.loggers import (
    log_checkpoints,
    log_pictures,
    log_scores,
    logging_run,
    plain_settings,
)
from lightning_losses.experiments.page import Page, Table
from lightning_losses.experiments.training.rehearsal import rehearse_step
from lightning_losses.experiments.training.steps_per_batch import steps_per_batch
from lightning_losses.experiments.training.training import IRRELEVANT, callbacks_of, limited, of_callbacks
from lightning_losses.modules.full_batch_learner import FullBatchLearner
from lightning_losses.plots.grokking import Curve, comparison, overlay

# With more runs than this, all share one panel.
_COLUMNS = 4
# Settings of other experiments, with the values that mean "not set".
_UNUSED: dict[str, Any] = {"scheduler": {}, "weights": "last", "teacher_weights": None, "teacher_cache": None}
_UNUSED_EXECUTION = {"blocks": None, "activation_checkpointing": False, "compile": None}


@dataclass(frozen=True)
class Run:
    """One run of an experiment.

    Attributes:
        label: its name in tables and figures.
        measure: "accuracy" or "loss".
        curves: ``(step, value)`` of training and test.
        collapse: (steps, share) of collapsed training rows, by precision.
        numbers: the numbers in the report, which the gates check, by name.
    """

    label: str
    measure: str
    curves: list[Curve]
    collapse: dict[str, Curve]
    numbers: dict[str, float]

    def plain(self) -> dict[str, Any]:
        """Its part of the JSON file."""
        curves = {curve.label: {"steps": curve.steps, "values": curve.values} for curve in self.curves}
        return {"label": self.label, **self.numbers, "curves": curves}


class Grokking(Experiment):
    """Every run of ``config.runs``, one after the other, with monitors of grokking.

    A run is the experiment with some values changed: ``runs.<name>.set`` maps dotted keys to new values. The figures
    are written to ``report/``, the monitors' pictures to ``report/<name>/``.
    """

    def rehearse(self) -> None:
        """Take one step of every run.

        Raises:
            ValueError: a gate on a run or number that doesn't exist; a run without an end, or without a validation.
        """
        config = self.config
        _check_unused(config)
        if not config.get("runs"):
            raise ConfigError("runs: there are none; give at least one, as conf/experiment/grok_perpgrad.yaml does.")
        gates, numbers = _gates(config), {}
        for name, run in config.runs.items():
            settings = _checked_settings(config, str(name), run)
            data, module = _build(settings)
            callbacks = callbacks_of(settings.callbacks)
            numbers[str(name)] = dict.fromkeys(_number_names(callbacks), math.nan)
            _check_length(settings.trainer, data.steps_per_epoch)
            if isinstance(module, FullBatchLearner):
                steps_per_batch(settings, data.steps_per_epoch, callbacks)
            data.setup()
            if self.resumed is not None:
                check_resumption(self.resumed / name, identity_of(settings), module)
            rehearse_step(module, data.train, settings.trainer)
        for gate in gates:
            gate.found(numbers)

    def perform(self, folder: Path) -> dict[str, Run]:
        """Train, write the report, and return each run's numbers by name."""
        started = time.perf_counter()
        config = self.config
        gates = _gates(config)
        runs: dict[str, Run] = {}
        for name, run in config.runs.items():
            Console().rule(run.label, align="left")
            # A single run writes into the experiment's folder; each of several has its own folder and logger.
            place = folder if len(config.runs) == 1 else folder / str(name)
            runs[str(name)] = _train(str(name), run.label, settings_of(config, run), folder, place)
        seconds = time.perf_counter() - started
        page = _page(config, runs, gates, seconds, self.command)
        page.write(folder / "report")
        page.show(seconds, folder / "report")
        return runs


def _gates(config: DictConfig) -> list[Gate]:
    node = config.get("gates")
    gates: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node or []
    if not isinstance(gates, list) or not all(isinstance(gate, dict) for gate in gates):
        raise ConfigError(f"gates={gates!r}: give a list, each {{runs: [RUN], value: NUMBER, at_least: BOUND}}.")
    for gate in gates:
        if unknown := [name for name in gate if name not in Gate.__dataclass_fields__]:
            raise ConfigError(f"gates: a gate has no '{unknown[0]}'; {nearest(unknown[0], Gate.__dataclass_fields__)}")
        if not isinstance(gate.get("runs"), list) or not isinstance(gate.get("value"), str):
            raise ConfigError(f"gates: {gate} came; give each gate its runs, a list, and value, the name of a number.")
    return [Gate(**gate) for gate in gates]


def _check_unused(config: DictConfig) -> None:
    """Raise for settings that this experiment would ignore, or that would repeat it on every process."""
    asked = [name for name, usual in _UNUSED.items() if config.get(name) not in (usual, None)]
    execution = config.get("execution") or {}
    asked += [f"execution.{name}" for name, usual in _UNUSED_EXECUTION.items() if execution.get(name, usual) != usual]
    if asked:
        raise ConfigError(f"{asked[0]}: the experiments on grokking don't use it; leave it out.")
    if runs_beside_others(config.trainer) or forks(config.trainer):
        raise ConfigError(
            "trainer: a step of this experiment is on the whole training split, and further processes would only "
            "repeat it; give trainer.devices=1 and trainer.strategy=auto."
        )


def _checked_settings(config: DictConfig, name: str, run: Any) -> DictConfig:
    """The settings of a run, checked like those of the command line."""
    if not isinstance(run, DictConfig) or "label" not in run:
        raise ConfigError(
            f"runs.{name}: give it a label, and its changed values under `set`, or leave it out by ~runs.{name}."
        )
    for key in run.get("set") or {}:
        part = str(key).partition(".")[0]
        if part not in (*config, "network_wrapper"):
            raise ConfigError(
                f"runs.{name}.set.{key}: the configuration has no {part}; give a key as on the command line, such as "
                "optimizer.lr."
            )
    settings = settings_of(config, run)
    if run.get("set"):
        try:
            check_config(settings, TrainSettings)
            check_trainer(settings.trainer)
        except ConfigError as error:
            raise ConfigError(f"runs.{name}.set: {error}") from None
    return settings


def _number_names(callbacks: Sequence[Callback]) -> list[str]:
    """The names of a run's numbers, which depend on its monitors.

    Raises:
        ConfigError: no monitor provides the curves of the report.
    """
    monitor = next((callback for callback in callbacks if isinstance(callback, GrokkingMonitor)), None)
    if monitor is None:
        raise ConfigError(
            "callbacks: no GrokkingMonitor is among them, whose curves the report shows; give callbacks=grokking."
        )
    of_test = [f"{which} test {monitor.measure}" for which in ("highest", "lowest", "first", "final")]
    names = [*of_test, f"final train {monitor.measure}", "memorised", "generalised", "delay", "ratio", "steps"]
    watched = any(isinstance(callback, SoftmaxCollapse) for callback in callbacks)
    return [*names, "seconds", *(("highest collapse", "half collapsed") if watched else ())]


def _check_length(trainer: DictConfig, steps_per_epoch: int) -> None:
    """Raise for a run that has no end, or ends before its first validation, which the report needs."""
    limit = trainer.get("limit_val_batches")
    if limited(1, limit) == 0:
        raise ConfigError(
            f"trainer.limit_val_batches={limit}: the report shows what validation found; give 1, or null for all."
        )
    if trainer.get("fast_dev_run"):
        raise ConfigError(f"trainer.fast_dev_run={trainer.fast_dev_run}: nothing would be reported; use max_steps=10.")
    epochs, most_steps = trainer.get("max_epochs"), trainer.get("max_steps", -1)
    if epochs == 0:
        raise ConfigError("trainer.max_epochs=0: nothing would be trained; give at least 1, or -1 for no limit.")
    if epochs in (None, -1) and most_steps == -1 and not trainer.get("max_time"):
        raise ConfigError("trainer.max_steps=-1: the run would have no end; give at least 1.")
    limit = trainer.get("limit_train_batches")
    batches = limited(steps_per_epoch, limit)
    if batches == 0:
        raise ConfigError(
            f"trainer.limit_train_batches={limit}: of {steps_per_epoch} batches this is less than one; give at least "
            f"{1 / steps_per_epoch:.2g}, or a whole number of batches."
        )
    interval, every_epochs = trainer.get("val_check_interval"), trainer.get("check_val_every_n_epoch", 1)
    interval = 1.0 if interval is None else interval
    if not isinstance(interval, int | float):
        # A duration.
        return
    first = int(interval * batches) if isinstance(interval, float) else interval
    if first == 0:
        raise ConfigError(
            f"trainer.val_check_interval={interval}: of {batches} steps of an epoch this is less than one; give at "
            f"least {1 / batches:.2g}, or a whole number of steps."
        )
    if every_epochs is not None:
        if first > batches:
            raise ConfigError(
                f"trainer.val_check_interval={interval}: an epoch has {batches} steps; give at most that, or a larger "
                "data.steps_per_epoch."
            )
        first += (every_epochs - 1) * batches
    # In batches; a step may be several batches.
    per_step = trainer.get("accumulate_grad_batches") or 1
    length = math.inf if most_steps == -1 else most_steps * per_step
    length = min(length, math.inf if epochs in (None, -1) else epochs * batches)
    if first > length:
        raise ConfigError(
            f"trainer: the run ends after {length} batches, but its report needs a validation, and the first is after "
            f"{first}; give more trainer.max_steps, or a smaller trainer.val_check_interval."
        )


def settings_of(config: DictConfig, run: DictConfig) -> DictConfig:
    """The whole configuration with a run's values."""
    settings = copy.deepcopy(config)
    for key, value in (run.get("set") or {}).items():
        OmegaConf.update(settings, str(key), value, merge=False, force_add=True)
    return settings


def identity_of(config: DictConfig) -> dict[str, Any]:
    """The plain values that decide the result of one run's training, except its length."""
    parts = ("data", "model", "network_wrapper", "modules", "trainer", "callbacks")
    plain: dict[str, Any] = {
        part: OmegaConf.to_container(config[part], resolve=True) for part in parts if config.get(part) is not None
    }
    for part, irrelevant in IRRELEVANT.items():
        beside = (*irrelevant, "max_steps", "max_epochs")
        plain[part] = {name: value for name, value in plain[part].items() if name not in beside}
    return {**plain, "seed": config.seed}


def _build(config: DictConfig) -> tuple[ResidentData, L.LightningModule]:
    """The data and the module before training, the same for the same seed."""
    L.seed_everything(config.seed, verbose=False)
    data: ResidentData = instantiate(config.data, seed=config.seed)
    network = instantiate(config.model, num_features=data.num_features, num_classes=data.num_classes)
    if config.get("network_wrapper"):
        network = instantiate(config.network_wrapper, network=network)
    module: L.LightningModule = instantiate(config.modules.student, network=network)
    return data, module


class _FiniteWeights(Callback):
    """Ends a run whose weights or losses are not finite, because no step will repair them."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check every weight, and the losses that validation logged."""
        logged = {name: value for name, value in trainer.callback_metrics.items() if "loss" in name}
        for name, value in [*pl_module.named_parameters(), *logged.items()]:
            if not torch.isfinite(value).all():
                raise NotFiniteError(
                    f"{name} isn't finite after {trainer.global_step} steps; give a smaller optimizer.lr, or look for "
                    "the step with +callbacks.guard._target_="
                    "lightning_losses.callbacks.interventions.numerics_guard.NumericsGuard."
                )


def _train(name: str, label: str, config: DictConfig, folder: Path, place: Path) -> Run:
    metrics = place / "metrics.jsonl"
    # The name in W&B of one of several runs.
    naming = {"name": label, "group": str(config.title)} if len(config.runs) > 1 else {}
    with logging_run(config, place, **naming) as logger:
        run = _fit(name, label, config, folder, logger, metrics)
        scores = {
            f"test/{run.measure}": run.numbers[f"final test {run.measure}"],
            **{f"grokking/{event}": run.numbers[event] for event in ("memorised", "generalised", "delay")},
        }
        log_scores(logger, scores)
        log_pictures(logger, sorted((folder / "report" / name).glob("*.png")))
        log_checkpoints(logger, folder / "checkpoints" / name, name, scores)
    # Written last, because it marks the end of the run.
    finish_metrics(metrics, scores)
    return run


def _fit(name: str, label: str, config: DictConfig, folder: Path, logger: Logger | None, metrics: Path) -> Run:
    callbacks = callbacks_of(config.callbacks)
    for callback in callbacks:
        if isinstance(callback, Monitor):
            callback.folder = folder / "report" / name
    checkpoints = folder / "checkpoints" / name
    with _quiet():
        last = begin(checkpoints, identity_of(config), resume=config.resume is not None)
        trainer, module, data = prepare(config, callbacks, checkpoints, metrics, logger)
        started = time.perf_counter()
        with of_callbacks():
            trainer.fit(module, data, ckpt_path=last, weights_only=True)
    return _run(label, callbacks, trainer, time.perf_counter() - started)


def prepare(
    config: DictConfig, callbacks: list[Callback], checkpoints: Path, metrics: Path, logger: Logger | None = None
) -> tuple[L.Trainer, L.LightningModule, ResidentData]:
    """The trainer, the module and the data of one run.

    Args:
        config: the configuration of the run.
        callbacks: monitors and interventions.
        checkpoints: the folder of ``last.ckpt``.
        metrics: the file of the metrics by epoch.
        logger: the logger, or None.
    """
    data, module = _build(config)
    # The configuration counts optimizer steps, Lightning batches.
    interval, log_interval = config.trainer.get("val_check_interval"), config.trainer.get("log_every_n_steps")
    if isinstance(module, FullBatchLearner):
        module.steps_per_batch = steps_per_batch(config, data.steps_per_epoch, callbacks)
        interval = interval if module.steps_per_batch == 1 else interval // module.steps_per_batch
        # Nothing is logged in a step; without a logger, skip even the check.
        log_interval = log_interval and (max(1, log_interval // module.steps_per_batch) if logger else 0)
    # Partial, because Hydra would treat dataclass callbacks as configurations.
    trainer: L.Trainer = instantiate(config.trainer, _partial_=True)(
        val_check_interval=interval,
        log_every_n_steps=log_interval,
        default_root_dir=checkpoints,
        logger=logger or False,
        plugins=[AtomicCheckpoints()],
        # An epoch may take a fifth of a second, and writing a checkpoint flushes to disk.
        callbacks=[*callbacks, _FiniteWeights(), LastCheckpoint(checkpoints, seconds=1.0), MetricsFile(metrics)],
    )
    return trainer, module, data


def _run(label: str, callbacks: list[Callback], trainer: L.Trainer, seconds: float) -> Run:
    monitor = next(callback for callback in callbacks if isinstance(callback, GrokkingMonitor))
    curves = [
        Curve("train", [step for step, _ in monitor.train], [value for _, value in monitor.train], "train"),
        Curve("test", [step for step, _ in monitor.val], [value for _, value in monitor.val], "test"),
    ]
    delay = monitor.delay()
    test = curves[1].values
    numbers = {
        f"highest test {monitor.measure}": max(test),
        f"lowest test {monitor.measure}": min(test),
        f"first test {monitor.measure}": test[0],
        f"final test {monitor.measure}": test[-1],
        f"final train {monitor.measure}": curves[0].values[-1],
        "memorised": delay.memorised,
        "generalised": delay.generalised,
        "delay": delay.delay,
        "ratio": delay.ratio,
        "steps": float(trainer.global_step),
        "seconds": seconds,
    }
    watch = next((callback for callback in callbacks if isinstance(callback, SoftmaxCollapse)), None)
    collapse = {}
    if watch is not None:
        collapse = {precision: Curve(precision, watch.steps, watch.values[precision]) for precision in watch.precisions}
        # The first precision is that of the loss.
        shares = watch.values[watch.precisions[0]]
        reached = (step for step, share in zip(watch.steps, shares, strict=True) if share >= 0.5)
        numbers["highest collapse"] = max(shares)
        numbers["half collapsed"] = next(reached, math.nan)
    return Run(label, monitor.measure, curves, collapse, numbers)


def _page(config: DictConfig, runs: Mapping[str, Run], gates: list[Gate], seconds: float, command: str) -> Page:
    measure = next(iter(runs.values())).measure
    shown = [f"final train {measure}", f"final test {measure}", "memorised", "generalised", "delay", "seconds"]
    if any(run.collapse for run in runs.values()):
        shown[2:2] = ["highest collapse", "half collapsed"]
    rows = [[run.label, *(_cell(name, run.numbers.get(name, math.nan)) for name in shown)] for run in runs.values()]
    numbers = {name: run.numbers for name, run in runs.items()}
    passed = {str(gate): gate.passes(numbers) for gate in gates}
    found = {str(gate): ", ".join(f"{value:.4g}" for value in gate.found(numbers)) for gate in gates}
    judged = [f"{'passed' if holds else 'FAILED'}: {gate} (found {found[gate]})" for gate, holds in passed.items()]
    return Page(
        title=config.title,
        command=command,
        body=[
            Table(["run", *shown], rows),
            "\n".join(f"- {line}" for line in judged),
            str(config.get("caveat") or ""),
            "![grokking](grokking.png)",
        ],
        said=judged,
        numbers={
            "seed": config.seed,
            "seconds": seconds,
            "runs": {name: run.plain() for name, run in runs.items()},
            "gates": [{"gate": gate, "passed": holds} for gate, holds in passed.items()],
            "passed": all(passed.values()),
        },
        settings=plain_settings(config),
        figures={"grokking.png": lambda: _figure(runs.values(), measure)},
    )


def _figure(runs: Collection[Run], measure: str) -> Figure:
    curves = {run.label: run.curves for run in runs}
    if len(runs) > _COLUMNS:
        return overlay(curves, measure=measure)
    return comparison(curves, {run.label: run.collapse for run in runs if run.collapse}, measure=measure)


def _cell(name: str, value: float) -> str:
    if math.isnan(value):
        return "–"
    if "accuracy" in name or name == "highest collapse":
        return f"{100 * value:.1f} %"
    return f"{value:.3g}" if "loss" in name else f"{value:,.0f}"


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Lightning uses a name that torch has renamed.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.* is deprecated")
        try:
            yield
        finally:
            logger.setLevel(level)
