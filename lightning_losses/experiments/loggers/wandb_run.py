"""Lightning's logger for Weights & Biases, with its decisions in the open."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only


class WandbRun(WandbLogger):
    """Lightning's logger for Weights & Biases, which knows where it writes and whether checkpoints go along.

    What is logged as ``val/...`` is drawn over epochs, and its best value and its last are in the table of runs; the
    rest is drawn over optimizer steps, and the table has the last value.

    Args:
        project: of W&B.
        save_dir: the folder in which ``wandb/`` is made.
        offline: whether nothing is sent until ``wandb sync``. None: as the environment's WANDB_MODE says; without it
            offline, except for the runs of a W&B agent, whose server waits for them.
        log_model: whether the run's checkpoints become an artifact. None: online they do.
        **run: what `wandb.init` takes: name, group, tags, notes, entity, job_type.

    Attributes:
        offline: what was decided.
        log_model: what was decided.

    Raises:
        ValueError: checkpoints are to be sent, and nothing is.
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
            # A mode that an earlier run of this process, or the shell, left behind would say otherwise.
            run["mode"] = "disabled" if os.environ.get("WANDB_MODE") == "disabled" else "online"
        try:
            super().__init__(project=project, save_dir=str(save_dir), offline=self.offline, log_model=False, **run)
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "logger=wandb: wandb is not installed; pip install 'lightning-losses[wandb]'."
            ) from None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log, and say of each name that is new how it is drawn.

        By its whole name: where several patterns fit, which of them W&B takes is left to chance.
        """
        for name in metrics:
            if name.startswith("val/") and name not in self._defined:
                self._defined.add(name)
                best = "max" if name.endswith("accuracy") else "min"
                # Pictures and tables have no smallest.
                summary = f"{best},last" if isinstance(metrics[name], (int, float)) else None
                self.experiment.define_metric(name, step_metric="epoch", summary=summary)
        super().log_metrics(metrics, step)


def _offline() -> bool:
    mode = os.environ.get("WANDB_MODE")
    if mode in ("online", "disabled", "shared"):
        return False
    # Set by W&B's agent for the runs of a sweep.
    return mode is not None or "WANDB_SWEEP_ID" not in os.environ
