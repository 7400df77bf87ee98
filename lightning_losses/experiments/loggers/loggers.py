"""Sends a run's settings, scores, tables, pictures and checkpoints to its logger."""

import csv
import importlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lightning_losses.callbacks.records.sent import send_picture, send_table
from lightning_losses.checkpoints.process_states import first_process
from lightning_losses.environment.extras import require
from lightning_losses.experiments.config.instantiate import ConfigError, find_target, instantiate, nearest
from lightning_losses.experiments.loggers.mlflow_run import MLflowRun
from lightning_losses.experiments.loggers.wandb_run import WandbRun
from lightning_losses.experiments.training.report import Report
from lightning_losses.metrics.bins import reliability

# The most compared scores, in the order of the table's columns.
_SCORES = ("accuracy", "nll", "brier", "ece")


def plain_settings(config: DictConfig) -> dict[str, Any]:
    """The whole configuration as plain values, interpolations resolved."""
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


def check_logger(config: DictConfig) -> None:
    """Raise if the configured logger would fail at the start of the run.

    Raises:
        ModuleNotFoundError: its package is not installed.
        ConfigError: an argument that neither the logger nor the function behind it takes.
    """
    target = str(config.logger.get("_target_", "")) if config.get("logger") else ""
    name = target.rpartition(".")[2]
    for package, names in _PACKAGES.items():
        if name in names:
            require("logger", package)
    if name not in _HANDED_ON:
        return
    # Imported here, because importing takes seconds.
    module, _, function = _HANDED_ON[name].rpartition(".")
    further = getattr(importlib.import_module(module), function)
    known = {*inspect.signature(find_target(target, "logger")).parameters, *inspect.signature(further).parameters}
    for key in map(str, config.logger):
        if key not in known and not key.startswith("_"):
            raise ConfigError(f"logger.{key}: {name} takes no '{key}'; {nearest(key, known - {'kwargs', 'self'})}")


def make_logger(config: DictConfig, folder: Path, **run: Any) -> Logger | None:
    """The configured logger, which writes into the run's folder and gets the whole configuration.

    Args:
        config: the configuration, with ``logger``.
        folder: the run's folder.
        **run: further information on the run for W&B, such as name or group; MLflow gets the name.
    """
    if not config.get("logger"):
        return None
    check_logger(config)
    made = instantiate(config.logger, _partial_=True)
    if made.func is MLflowRun:
        # One folder for all runs, because MLflow shows one folder.
        folder = Path(config.get("output") or folder) / "mlruns"
    told = {WandbRun: run, MLflowRun: {key: run[key] for key in run.keys() & {"name"}}}
    logger: Logger = made(save_dir=str(folder), **told.get(made.func, {}))
    logger.log_hyperparams(plain_settings(config))
    return logger


@contextmanager
def logging_run(config: DictConfig, folder: Path, **run: Any) -> Iterator[Logger | None]:
    """A logger for the time of a run; at the end it gets the run's status, and the folder of a W&B run is printed."""
    logger = make_logger(config, folder, **run)
    try:
        yield logger
    except BaseException:
        finish(logger, failed=True)
        raise
    finish(logger)


def finish(logger: Logger | None, *, failed: bool = False) -> None:
    """End a logger's run, and print the folder of a W&B run."""
    # The parent must not overwrite the CSV file of a forked run.
    if logger is None or isinstance(logger, CSVLogger) or not first_process():
        return
    if not isinstance(logger, WandbLogger):
        logger.finalize("failed" if failed else "success")
        return
    run = logger.experiment
    place = Path(str(run.dir)).parent
    run.finish(exit_code=1 if failed else 0)
    if isinstance(logger, WandbRun) and not failed:
        text = (
            f"W&B: offline; wandb sync {os.path.relpath(place)} sends it. Checkpoints stay in the run's folder."
            if logger.offline
            else f"W&B: {run.url}"
        )
        Console(soft_wrap=True, highlight=False, markup=False).print(text)


def log_scores(logger: Logger | None, scores: Mapping[str, float]) -> None:
    """Send a run's final numbers, by their full names."""
    if logger is not None:
        logger.log_metrics(dict(scores))


def log_report(logger: Logger | None, report: Report, pictures: Sequence[Path]) -> None:
    """Send a report's table, the bins of its reliability diagrams and its pictures."""
    columns = ["network", *_SCORES, *(f"{name} calibrated" for name in _SCORES), "temperature", "parameters", "seconds"]
    rows = []
    for evaluation in report.evaluations:
        stages = (evaluation.before, evaluation.after)
        scores = [getattr(stage, name) for stage in stages for name in _SCORES]
        rest = [evaluation.temperature, evaluation.parameters, evaluation.trained.seconds]
        rows.append([evaluation.trained.label, *scores, *rest])
        name = evaluation.trained.name
        log_table(logger, f"calibration/bins_{name}", _BINS, _bins(evaluation))
    log_table(logger, "report/networks", columns, rows)
    log_pictures(logger, pictures)


def log_table(logger: Logger | None, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Send one table to a logger that accepts tables, from the first process."""
    if first_process():
        send_table(logger, name, columns, rows)


def log_folder(config: DictConfig, folder: Path, scores: Mapping[str, float] | None = None) -> None:
    """Send numbers, and the tables (``.csv``) and pictures (``.png``) of a report, as a separate run."""
    if config.get("logger"):
        with logging_run(config, folder) as logger:
            if scores:
                log_scores(logger, scores)
            for path in sorted((folder / "report").glob("*.csv")):
                heads, *rows = csv.reader(path.read_text().splitlines())
                log_table(logger, f"report/{path.stem}", heads, [[_number(cell) for cell in row] for row in rows])
            log_pictures(logger, sorted((folder / "report").glob("*.png")))


def log_pictures(logger: Logger | None, pictures: Sequence[Path]) -> None:
    """Send pictures; reliability diagrams in the group "calibration", others in "report"."""
    for picture in pictures if first_process() else ():
        group = "calibration" if picture.stem.startswith("reliability") else "report"
        send_picture(logger, f"{group}/{picture.stem}", picture)


def log_checkpoints(logger: Logger | None, folder: Path, name: str, scores: Mapping[str, float]) -> None:
    """Make an artifact of a network's checkpoints, if the logger's settings ask for it.

    Args:
        logger: the run's logger.
        folder: the folder of ``last.ckpt`` and possibly ``best.ckpt``.
        name: the artifact's name, before the run's id.
        scores: numbers stored with the artifact.
    """
    if not isinstance(logger, WandbRun) or not logger.log_model:
        return
    import wandb

    artifact = wandb.Artifact(f"{name}-{logger.experiment.id}", type="model", metadata=dict(scores))
    for file in sorted(folder.glob("*.ckpt")):
        artifact.add_file(str(file), name=file.name)
    logger.experiment.log_artifact(artifact)


# The packages that a logger needs, by its class.
# The functions to which loggers pass further arguments.
_HANDED_ON = {
    "TensorBoardLogger": "torch.utils.tensorboard.SummaryWriter",
    "WandbLogger": "wandb.init",
    "WandbRun": "wandb.init",
}
_PACKAGES = {
    "mlflow": ("MLflowRun", "MLFlowLogger"),
    "tensorboard": ("TensorBoardLogger",),
    "wandb": ("WandbRun", "WandbLogger"),
}
_BINS = ("stage", "bin", "samples", "confidence", "accuracy")


def _number(cell: str) -> float | str | None:
    """The value of a CSV cell: a number, nothing, or a text."""
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell


def _bins(evaluation: Any) -> list[list[Any]]:
    """The reliability diagram's numbers, one row per bin, before and after calibration."""
    rows: list[list[Any]] = []
    for stage, logits in (("before", evaluation.logits), ("after", evaluation.calibrated_logits)):
        rows += [[stage, place, *row] for place, row in enumerate(reliability(logits, evaluation.target, num_bins=15))]
    return rows
