"""Trains the runs of a grokking experiment side by side, and reports curves, delays and gates."""

import copy
import logging
import math
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lightning_losses.callbacks.monitors.grokking_monitor import GrokkingMonitor
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.callbacks.monitors.softmax_collapse import SoftmaxCollapse
from lightning_losses.callbacks.records.metrics_file import MetricsFile, finish_metrics
from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints
from lightning_losses.checkpoints.last_checkpoint import LastCheckpoint
from lightning_losses.checkpoints.resumption import begin, check_resumption
from lightning_losses.data.resident import ResidentData
from lightning_losses.experiments.config.check_config import runs_again
from lightning_losses.experiments.config.instantiate import ConfigError, instantiate
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
from lightning_losses.experiments.training.training import IRRELEVANT
from lightning_losses.modules.full_batch_learner import FullBatchLearner
from lightning_losses.plots.grokking import Curve, comparison, overlay

# More runs than these share one panel.
_COLUMNS = 4


@dataclass(frozen=True)
class Run:
    """One run of an experiment.

    Attributes:
        label: what tables and figures call it.
        measure: "accuracy" or "loss".
        curves: ``(step, value)`` of training and test.
        collapse: (steps, share) of collapsed training rows, by precision.
        numbers: what the report states and the gates judge, by name.
    """

    label: str
    measure: str
    curves: list[Curve]
    collapse: dict[str, Curve]
    numbers: dict[str, float]

    def plain(self) -> dict[str, Any]:
        """What the JSON file holds of it."""
        curves = {curve.label: {"steps": curve.steps, "values": curve.values} for curve in self.curves}
        return {"label": self.label, **self.numbers, "curves": curves}


class Grokking(Experiment):
    """Every run of ``config.runs``, one after the other, watched while it groks.

    A run is the experiment with some values set: ``runs.<name>.set`` maps dotted keys to what stands there instead.
    The figures go to ``report/``, the monitors' pictures to ``report/<name>/``.
    """

    def rehearse(self) -> None:
        """Take one step of every run.

        Raises:
            ValueError: a gate on a run or number that there isn't.
        """
        config = self.config
        _gates(config)
        if runs_again(config.trainer):
            raise ConfigError(
                "trainer: this experiment trains many networks and compares them in one process; use trainer=ddp_fork, "
                "or one device."
            )
        for name, run in config.runs.items():
            settings = settings_of(config, run)
            data, module = _build(settings)
            callbacks = callbacks_of(settings)
            if isinstance(module, FullBatchLearner):
                steps_per_batch(settings, data.steps_per_epoch, callbacks)
            data.setup()
            if self.resumed is not None:
                check_resumption(self.resumed / name, identity_of(settings), module)
            rehearse_step(module, data.train, settings.trainer)

    def perform(self, folder: Path) -> dict[str, Run]:
        """Train, and write the report; what each run came to, by name."""
        started = time.perf_counter()
        config = self.config
        gates = _gates(config)
        runs: dict[str, Run] = {}
        for name, run in config.runs.items():
            Console().rule(run.label, align="left")
            # One run is the whole experiment; of several each has a folder and a logger of its own.
            place = folder if len(config.runs) == 1 else folder / str(name)
            runs[str(name)] = _train(str(name), run.label, settings_of(config, run), folder, place)
        seconds = time.perf_counter() - started
        page = _page(config, runs, gates, seconds, self.command)
        page.write(folder / "report")
        page.show(seconds, folder / "report")
        return runs


def _gates(config: DictConfig) -> list[Gate]:
    gates = OmegaConf.to_container(config.get("gates") or OmegaConf.create([]), resolve=True)
    assert isinstance(gates, list)
    return [Gate(**gate) for gate in gates]


def settings_of(config: DictConfig, run: DictConfig) -> DictConfig:
    """The whole configuration with a run's values set."""
    settings = copy.deepcopy(config)
    for key, value in (run.get("set") or {}).items():
        OmegaConf.update(settings, str(key), value, merge=False, force_add=True)
    return settings


def identity_of(config: DictConfig) -> dict[str, Any]:
    """The plain values that decide what the training of one run makes, but for how long it is."""
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


def callbacks_of(config: DictConfig) -> list[Callback]:
    """The callbacks in their order; a run leaves one out by null."""
    made = instantiate(config.callbacks, _convert_="all").values()
    return [callback for callback in made if callback is not None]


def _train(name: str, label: str, config: DictConfig, folder: Path, place: Path) -> Run:
    metrics = place / "metrics.jsonl"
    # What W&B calls one of several runs.
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
    # Last: who watches the run knows by it that the run is done.
    finish_metrics(metrics, scores)
    return run


def _fit(name: str, label: str, config: DictConfig, folder: Path, logger: Logger | None, metrics: Path) -> Run:
    callbacks = callbacks_of(config)
    for callback in callbacks:
        if isinstance(callback, Monitor):
            callback.folder = folder / "report" / name
    checkpoints = folder / "checkpoints" / name
    with _quiet():
        last = begin(checkpoints, identity_of(config), resume=config.resume is not None)
        trainer, module, data = prepare(config, callbacks, checkpoints, metrics, logger)
        started = time.perf_counter()
        trainer.fit(module, data, ckpt_path=last, weights_only=True)
    return _run(label, callbacks, trainer, time.perf_counter() - started)


def prepare(
    config: DictConfig, callbacks: list[Callback], checkpoints: Path, metrics: Path, logger: Logger | None = None
) -> tuple[L.Trainer, L.LightningModule, ResidentData]:
    """What trains one run, which ``config`` is of: the trainer, the module and its data.

    Args:
        config: of the run.
        callbacks: what watches and intervenes.
        checkpoints: the folder of ``last.ckpt``.
        metrics: the file of the metrics by epoch.
        logger: where to log, if anywhere.
    """
    data, module = _build(config)
    # The configuration counts optimizer steps, Lightning batches.
    interval, log_interval = config.trainer.get("val_check_interval"), config.trainer.get("log_every_n_steps")
    if isinstance(module, FullBatchLearner):
        module.steps_per_batch = steps_per_batch(config, data.steps_per_epoch, callbacks)
        interval = interval if module.steps_per_batch == 1 else interval // module.steps_per_batch
        # It logs nothing in a step; without a logger not even that need be found out.
        log_interval = log_interval and (max(1, log_interval // module.steps_per_batch) if logger else 0)
    # Partly, since Hydra would read callbacks with settings as configurations.
    trainer: L.Trainer = instantiate(config.trainer, _partial_=True)(
        val_check_interval=interval,
        log_every_n_steps=log_interval,
        default_root_dir=checkpoints,
        logger=logger or False,
        plugins=[AtomicCheckpoints()],
        # An epoch may be a fifth of a second, and a checkpoint is flushed to disk.
        callbacks=[*callbacks, LastCheckpoint(checkpoints, seconds=1.0), MetricsFile(metrics)],
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
        # The first precision is the loss's own.
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
        # Lightning's own use of a name that torch has renamed.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.* is deprecated")
        try:
            yield
        finally:
            logger.setLevel(level)
