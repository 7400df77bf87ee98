"""Writes a callback's pictures and tables to a folder and to the trainer's loggers."""

from pathlib import Path
from typing import Any

import lightning as L

from lightning_losses.callbacks.records.sent import send_picture, send_table
from lightning_losses.plots.style import Figure, save_figure


def publish(trainer: L.Trainer, name: str, figure: Figure, folder: Path | None, *, file: str | None = None) -> None:
    """Write a picture as PNG and send it to the loggers that accept pictures, from the first process.

    Without a folder it is written into ``<log_dir>/figures`` of a logger that keeps files, if there is one.

    Args:
        trainer: the trainer, for its loggers and its step.
        name: ``group/picture``; slashes become folders.
        figure: the picture.
        folder: the folder to write to, or None.
        file: the name of the PNG, if one name for all steps would overwrite it.
    """
    if not trainer.is_global_zero:
        return
    file = f"{file or name}.png"
    loggers: list[Any] = trainer.loggers
    for logger in loggers:
        send_picture(logger, name, figure, trainer.global_step)
        if folder is None and logger.log_dir is not None:
            save_figure(figure, Path(logger.log_dir) / "figures" / file)
    if folder is not None:
        save_figure(figure, folder / file)


def publish_table(trainer: L.Trainer, name: str, columns: list[str], rows: list[list[object]]) -> None:
    """Send a table to the loggers that accept tables, from the first process."""
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        send_table(logger, name, columns, rows, trainer.global_step)
