"""SLURM at the end of a run: it signals a job whose time is over, and requeues it."""

import os
import shutil
from pathlib import Path

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from lightning_losses.environment.lightning_internals import cluster_environment


def requeue_signal(trainer: L.Trainer) -> int:
    """SLURM's signal for the end of a job's time, if Lightning should requeue the job; 0 for none."""
    environment = cluster_environment(trainer)
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return int(environment.requeue_signal or 0)
    return 0


def queued_again() -> bool:
    """Whether SLURM has started this job before."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def remove_lightnings_own(folder: Path) -> None:
    """Remove Lightning's own checkpoint of a job ended by SLURM; ``last.ckpt`` holds the same moment."""
    for path in folder.glob("hpc_ckpt_*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
