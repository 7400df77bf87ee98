"""Lightning's logger for MLflow, which says where it writes."""

import os
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_losses.environment.extras import require


class MLflowRun(MLFlowLogger):
    """Lightning's logger for MLflow: to the server that MLFLOW_TRACKING_URI names, or else into a folder.

    A metric's name keeps its first slash alone, ``train/loss.kd``: in a folder ``train/loss`` is a file.

    Args:
        experiment_name: what MLflow calls the runs together.
        save_dir: the folder that ``mlflow ui --backend-store-uri FOLDER`` shows.
        name: what MLflow calls the run; None leaves it to MLflow.

    Raises:
        ModuleNotFoundError: MLflow is not installed.
    """

    def __init__(
        self, experiment_name: str = "lightning-losses", save_dir: str | Path = "mlruns", name: str | None = None
    ) -> None:
        require("logger", "mlflow")
        server = os.environ.get("MLFLOW_TRACKING_URI")
        if server is None:
            # Without it MLflow 3 refuses folders, which need no server and no database.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        super().__init__(experiment_name, run_name=name, tracking_uri=server, save_dir=str(save_dir))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log by names that a folder can hold."""
        groups = {name: name.partition("/") for name in metrics}
        plain = {f"{group}{slash}{rest.replace('/', '.')}": name for name, (group, slash, rest) in groups.items()}
        super().log_metrics({new: metrics[name] for new, name in plain.items()}, step)
