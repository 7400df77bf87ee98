"""Lightning's logger for MLflow, with an explicit place to write to."""

import os
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_losses.environment.extras import require


class MLflowRun(MLFlowLogger):
    """Lightning's logger for MLflow: it writes to the server in MLFLOW_TRACKING_URI, or else into a folder.

    A metric's name keeps only its first slash, as in ``train/loss.kd``, because in a folder ``train/loss`` is a file.

    Args:
        experiment_name: MLflow's name for the group of runs.
        save_dir: the folder to write to; ``mlflow ui --backend-store-uri FOLDER`` shows it.
        name: MLflow's name for the run; None leaves it to MLflow.

    Raises:
        ModuleNotFoundError: MLflow is not installed.
    """

    def __init__(
        self, experiment_name: str = "lightning-losses", save_dir: str | Path = "mlruns", name: str | None = None
    ) -> None:
        require("logger", "mlflow")
        server = os.environ.get("MLFLOW_TRACKING_URI")
        if server is None:
            # Otherwise MLflow 3 refuses folders, which need no server and no database.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        super().__init__(experiment_name, run_name=name, tracking_uri=server, save_dir=str(save_dir))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log under names that are valid in a folder."""
        groups = {name: name.partition("/") for name in metrics}
        plain = {f"{group}{slash}{rest.replace('/', '.')}": name for name, (group, slash, rest) in groups.items()}
        super().log_metrics({new: metrics[name] for new, name in plain.items()}, step)
