"""Calibrate logits, or a checkpoint of the train recipe: a calibrator, a table, pictures.

    python recipes/calibrate.py logits=validation.npz                          # half to fit on, half to evaluate on
    python recipes/calibrate.py logits=val.csv test_logits=test.csv calibrator=dirichlet
    python recipes/calibrate.py checkpoint=outputs/2026-01-01/12-00-00/checkpoints/student/last.ckpt
    python recipes/calibrate.py -m logits=val.npz calibrator=temperature,vector,isotonic

Files are never unpickled. `--help` lists the choices and the whole configuration.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console

from lightning_losses.experiments.config.instantiate import instantiate
from lightning_losses.experiments.kinds.calibration import Calibration, calibrate
from lightning_losses.experiments.kinds.logits_source import Split, checkpoint_split, file_split
from lightning_losses.experiments.launch import command, launch


class Settings:
    """The types of the configuration's plain values."""

    logits: str | None
    test_logits: str | None
    fit_fraction: float
    checkpoint: str | None
    num_bins: int
    resamples: int
    level: float
    seed: int
    threads: int | None
    debug: bool
    output: str


def read(config: DictConfig, views: Sequence[str]) -> Split:
    """The logits to fit on and those to evaluate on, from the file or the checkpoint that the settings name."""
    if (config.logits is None) == (config.checkpoint is None):
        raise ValueError("calibrate: give one of logits=FILE (.npz, .safetensors, .csv) and checkpoint=FILE (.ckpt).")
    if config.checkpoint is not None:
        return checkpoint_split(Path(config.checkpoint).expanduser(), views)
    test = None if config.test_logits is None else Path(config.test_logits).expanduser()
    return file_split(Path(config.logits).expanduser(), test, fit_fraction=config.fit_fraction, seed=config.seed)


def run(config: DictConfig, folder: Path) -> Calibration:
    """Fit the calibrator, evaluate it, and write everything into the run's folder."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    calibrator = instantiate(config.calibrator)
    found = calibrate(
        calibrator,
        read(config, calibrator.views),
        num_bins=config.num_bins,
        level=config.level,
        resamples=config.resamples,
        seed=config.seed,
    )
    page = found.page(command())
    page.write(folder)
    found.calibrator.save(folder / "calibrator.safetensors")
    page.show()
    Console(soft_wrap=True, highlight=False).print(f"The calibrator, the table and the pictures are in {folder}")
    return found


def rehearse(config: DictConfig) -> None:
    """Read the logits, so that a wrong file is known before anything was fitted."""
    if config.checkpoint is None:
        read(config, ())


def main() -> None:
    """Start from the command line."""
    launch(run, rehearse, config_name="calibrate", schema=Settings)


if __name__ == "__main__":
    main()
