"""Where a callback's pictures go: a folder, Weights & Biases."""

from pathlib import Path
from typing import Any

import lightning as L

from lightning_losses.environment.two_lightnings import is_named
from lightning_losses.plots.style import Figure, save_figure


def publish(trainer: L.Trainer, name: str, figure: Figure, folder: Path | None, *, file: str | None = None) -> None:
    """Write a picture as PNG and send it to Weights & Biases, from the first process.

    Without a folder it is written beside the files of a logger that keeps files (``<log_dir>/figures``), if there is
    one.

    Args:
        trainer: the trainer, for its loggers and its step.
        name: ``group/picture``; slashes become folders.
        figure: the picture.
        folder: where to.
        file: the name of the PNG, where one name for all steps would overwrite it.
    """
    if not trainer.is_global_zero:
        return
    file = f"{file or name}.png"
    loggers: list[Any] = trainer.loggers
    for logger in loggers:
        if is_named(logger, "WandbLogger"):
            logger.log_image(name, [figure], step=trainer.global_step)
        elif folder is None and logger.log_dir is not None:
            save_figure(figure, Path(logger.log_dir) / "figures" / file)
    if folder is not None:
        save_figure(figure, folder / file)


def publish_table(trainer: L.Trainer, name: str, columns: list[str], rows: list[list[object]]) -> None:
    """Send a table to Weights & Biases, from the first process; other loggers have no place for one."""
    if not trainer.is_global_zero:
        return
    loggers: list[Any] = trainer.loggers
    for logger in loggers:
        if is_named(logger, "WandbLogger"):
            logger.log_table(name, columns=columns, data=rows, step=trainer.global_step)
