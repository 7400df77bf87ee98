"""SLURM and the end of a run: it signals a job whose time is over, and queues it again."""

import os
import shutil
from pathlib import Path

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from lightning_losses.environment.lightning_internals import cluster_environment


def requeue_signal(trainer: L.Trainer) -> int:
    """The signal by which SLURM tells that a job's time is over, if Lightning is to queue it again then; 0: none."""
    environment = cluster_environment(trainer)
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return int(environment.requeue_signal or 0)
    return 0


def queued_again() -> bool:
    """Whether SLURM started this job before."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def remove_lightnings_own(folder: Path) -> None:
    """Remove what Lightning wrote when SLURM ended the job, beside the same moment in ``last.ckpt``."""
    for path in folder.glob("hpc_ckpt_*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
