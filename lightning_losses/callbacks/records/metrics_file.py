"""Writes each epoch's metrics to a file at once, for programs that watch a run."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from lightning_losses.callbacks.access import refuse_unwritable
from lightning_losses.environment.atomic_files import append_line, write_text


class MetricsFile(Callback):
    """Appends a line of JSON to a file after each epoch: the epoch, the step, and every metric logged so far.

    A run that continues from a checkpoint keeps the lines of the checkpoint's epochs. Numbers that are not finite are
    null. With several processes the first one writes.

    Args:
        path: the file; an existing one is replaced unless the run continues.

    Example:
        >>> MetricsFile("run/metrics.jsonl").path.name
        'metrics.jsonl'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the lines of the epochs before this one."""
        refuse_unwritable(trainer, self.path.parent)
        if trainer.is_global_zero:
            kept = [line for line in read_metrics(self.path) if line.get("epoch", math.inf) < trainer.current_epoch]
            write_text(self.path, "".join(f"{json.dumps(line)}\n" for line in kept))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the finished epoch."""
        # On all processes: reading the metrics may sum over processes.
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.is_global_zero:
            append_metrics(self.path, {"epoch": trainer.current_epoch, "step": trainer.global_step, **metrics})


def finish_metrics(path: Path, values: Mapping[str, float | bool]) -> None:
    """Append the line that tells readers that the run is done, replacing an earlier one."""
    lines = read_metrics(path)
    if any(line.get("finished") for line in lines):
        kept = [line for line in lines if not line.get("finished")]
        write_text(path, "".join(f"{json.dumps(line)}\n" for line in kept))
    append_metrics(path, {**values, "finished": True})


def append_metrics(path: Path, values: Mapping[str, float | bool]) -> None:
    """Append one line of metrics."""
    append_line(path, json.dumps({name: value if math.isfinite(value) else None for name, value in values.items()}))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of such a file, none if it doesn't exist; a line that is being written is left out.

    Raises:
        ValueError: a line without metrics; the message names the line.
    """
    if not path.is_file():
        return []
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            content = json.loads(line)
            if not isinstance(content, dict):
                raise ValueError("it is no table")
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: this is no line of metrics ({error}); remove it, or restore the file from a "
                "copy."
            ) from None
        lines.append(content)
    return lines


def last_metric(path: Path, name: str) -> float:
    """The last finite value of a metric in such a file.

    Raises:
        ValueError: there is none.
    """
    lines = read_metrics(path)
    values = [line[name] for line in lines if line.get(name) is not None]
    if not values:
        known = sorted({key for line in lines for key, value in line.items() if value is not None})
        raise ValueError(f"metrics: the run reported no {name}; it reported {', '.join(known) or 'nothing'}.")
    return float(values[-1])
