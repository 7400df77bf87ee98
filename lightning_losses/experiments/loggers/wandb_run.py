"""Lightning's logger for Weights & Biases, with explicit settings."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only


class WandbRun(WandbLogger):
    """Lightning's logger for Weights & Biases, with explicit settings for its folder, mode and checkpoints.

    Metrics named ``val/...`` are drawn over epochs, and the table of runs has their best and last values. Other metrics
    are drawn over optimizer steps, and the table has their last values.

    Args:
        project: the W&B project.
        save_dir: the folder of ``wandb/``.
        offline: whether nothing is sent until ``wandb sync``. None follows the environment variable WANDB_MODE; without
            it runs are offline, except those of a W&B agent, because its server waits for them.
        log_model: whether the run's checkpoints become an artifact. None: yes, if online.
        **run: arguments of `wandb.init`: name, group, tags, notes, entity, job_type.

    Attributes:
        offline: the resulting setting.
        log_model: the resulting setting.

    Raises:
        ValueError: `log_model` while offline.
        ModuleNotFoundError: W&B is not installed.
    """

    def __init__(
        self,
        project: str = "lightning-losses",
        save_dir: str | Path = ".",
        offline: bool | None = None,
        log_model: bool | None = None,
        **run: Any,
    ) -> None:
        self.offline = _offline() if offline is None else offline
        self.log_model = not self.offline if log_model is None else log_model
        self._defined: set[str] = set()
        if self.offline and self.log_model:
            raise ValueError(
                "logger: log_model=true came while offline, where no artifact can be sent; give logger.offline=false, "
                "or leave log_model=null."
            )
        if not self.offline:
            # Overrides a mode left by the shell or an earlier run of this process.
            run["mode"] = "disabled" if os.environ.get("WANDB_MODE") == "disabled" else "online"
        try:
            super().__init__(project=project, save_dir=str(save_dir), offline=self.offline, log_model=False, **run)
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "logger=wandb: wandb is not installed; pip install 'lightning-losses[wandb]'."
            ) from None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log, and define for each new name how it is drawn.

        Each name is defined in full, because the choice of W&B among several matching patterns is arbitrary.
        """
        for name in metrics:
            if name.startswith("val/") and name not in self._defined:
                self._defined.add(name)
                best = "max" if name.endswith("accuracy") else "min"
                # Pictures and tables have no best value.
                summary = f"{best},last" if isinstance(metrics[name], (int, float)) else None
                self.experiment.define_metric(name, step_metric="epoch", summary=summary)
        super().log_metrics(metrics, step)


def _offline() -> bool:
    mode = os.environ.get("WANDB_MODE")
    if mode in ("online", "disabled", "shared"):
        return False
    # W&B's agent sets it for the runs of a sweep.
    return mode is not None or "WANDB_SWEEP_ID" not in os.environ
