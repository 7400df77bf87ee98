"""Trains several objectives with several seeds, and measures each before and after temperature scaling."""

import copy
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_losses.data.cache import cache_folder
from lightning_losses.metrics import calibration_summary
from lightning_losses.recipe.comparison_report import METRICS, Comparison, Scores
from lightning_losses.recipe.evaluation import evaluate
from lightning_losses.recipe.kept_networks import KeptNetworks
from lightning_losses.recipe.launch import command
from lightning_losses.recipe.loggers import plain_settings
from lightning_losses.recipe.training import Training


def compare(config: DictConfig, folder: Path) -> Comparison:
    """Train every run of ``config.runs`` with ``config.seeds`` seeds, and write the report into the run's folder.

    A run is the experiment with some values set: ``runs.<name>.set`` maps dotted keys to what stands there instead. A
    network that was trained before is read from where it is kept.

    Raises:
        ValueError: no runs, or fewer than one seed.
    """
    started = time.perf_counter()
    kept = KeptNetworks(config.cache or cache_folder() / "networks")
    before: dict[str, list[Scores]] = {str(name): [] for name in config.runs}
    after: dict[str, list[Scores]] = {name: [] for name in before}
    temperatures: dict[str, list[float]] = {name: [] for name in before}
    trainings = list(_trainings(config))
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console() if Console().is_terminal else Console(width=120)
    with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
        task = progress.add_task("", total=len(trainings))
        for name, seed, training in trainings:
            progress.update(task, description=f"{config.runs[name].label}, seed {seed}")
            trained = training.run_once(kept, folder / "checkpoints", resume=config.resume is not None)
            with warnings.catch_warnings():
                # The report states every temperature.
                warnings.filterwarnings("ignore", message="TemperatureScaling: the best temperature lies outside")
                found = evaluate(trained, training.datamodule)
            before[name].append(_scores(found.logits, found.target))
            after[name].append(_scores(found.calibrated_logits, found.target))
            temperatures[name].append(found.temperature)
            # The data are read again for the next network: one copy in memory is enough.
            training.__dict__.pop("datamodule")
            progress.advance(task)
    comparison = Comparison(
        title=str(config.title),
        command=command(),
        labels={str(name): str(run.label) for name, run in config.runs.items()},
        seeds=tuple(range(config.seed, config.seed + config.seeds)),
        before=before,
        after=after,
        temperatures=temperatures,
        reference={str(name): str(run.get("against") or next(iter(config.runs))) for name, run in config.runs.items()},
        caveat=str(config.get("caveat") or ""),
        settings=plain_settings(config),
        seconds=time.perf_counter() - started,
    )
    comparison.write(folder / "report")
    comparison.show()
    Console(soft_wrap=True, highlight=False).print(f"{comparison.seconds:.0f} s. The report is in {folder / 'report'}")
    return comparison


def rehearse(config: DictConfig) -> None:
    """Take one step of every run, so that what can't work is known before anything was trained."""
    for _, seed, training in _trainings(config):
        if seed == config.seed:
            training.rehearse()


def _trainings(config: DictConfig) -> Iterator[tuple[str, int, Training]]:
    if not isinstance(config.seeds, int) or config.seeds < 1:
        raise ValueError(f"seeds={config.seeds!r} came; give a whole number of at least 1.")
    if not config.runs:
        raise ValueError("runs: there are none; leave at least one.")
    for name, run in config.runs.items():
        if run.get("against") is not None and run.against not in config.runs:
            raise ValueError(
                f"runs.{name}: against={run.against} came; choose one of {', '.join(map(str, config.runs))}."
            )
    # One seed of every run after the other: what an interrupted comparison has is balanced.
    for seed in range(config.seed, config.seed + config.seeds):
        for name, run in config.runs.items():
            settings = copy.deepcopy(config)
            settings.seed = seed
            for key, value in (run.get("set") or {}).items():
                OmegaConf.update(settings, str(key), value, merge=False, force_add=True)
            training = Training(
                name=f"{name}-{seed}",
                module=settings.modules.student,
                data=settings.data,
                trainer=settings.trainer,
                scheduler=settings.get("scheduler") or None,
                callbacks=settings.get("callbacks") or None,
                seed=seed,
                weights=settings.weights,
            )
            yield str(name), seed, training


def _scores(logits: torch.Tensor, target: torch.Tensor) -> Scores:
    summary = calibration_summary(logits, target, inputs="logits", num_bins=15)
    return {name: float(summary[name]) for name in METRICS}
