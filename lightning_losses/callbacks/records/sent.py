"""Sends pictures and tables to loggers: Weights & Biases, TensorBoard, MLflow and Comet, of either Lightning."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightning_losses.environment.two_lightnings import is_named
from lightning_losses.plots.style import Figure


def send_picture(logger: Any, name: str, picture: Figure | Path, step: int | None = None) -> None:
    """Send a picture to a logger, if it accepts pictures.

    Args:
        logger: any logger; it is recognised by the name of its class.
        name: ``group/picture``.
        picture: a figure, or a PNG's path.
        step: the optimizer step of the content; None for the whole run.
    """
    figure = None if isinstance(picture, Path) else picture
    if is_named(logger, "WandbLogger"):
        logger.log_image(name, [str(picture) if figure is None else figure], **_at(step))
    elif is_named(logger, "TensorBoardLogger"):
        if figure is None:
            pixels = np.asarray(Image.open(str(picture)).convert("RGB"))
            logger.experiment.add_image(name, pixels, global_step=step, dataformats="HWC")
        else:
            logger.experiment.add_figure(name, figure, global_step=step, close=False)
    elif is_named(logger, "MLFlowLogger"):
        if figure is None:
            logger.experiment.log_artifact(logger.run_id, str(picture), artifact_path=name.rpartition("/")[0] or None)
        else:
            logger.experiment.log_figure(logger.run_id, figure, f"{_artifact(name, step)}.png")
    elif is_named(logger, "CometLogger"):
        if figure is None:
            logger.experiment.log_image(image_data=str(picture), name=name, **_at(step))
        else:
            logger.experiment.log_figure(figure_name=name, figure=figure, **_at(step))


def send_table(
    logger: Any, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None = None
) -> None:
    """Send a table to a logger, if it accepts tables or texts.

    Args:
        logger: any logger; it is recognised by the name of its class.
        name: ``group/table``.
        columns: the column names.
        rows: the cells.
        step: the optimizer step of the content; None for the whole run.
    """
    lines = [list(columns), *(list(row) for row in rows)]
    if is_named(logger, "WandbLogger"):
        logger.log_table(name, columns=lines[0], data=lines[1:], **_at(step))
    elif is_named(logger, "TensorBoardLogger"):
        logger.experiment.add_text(name, _markdown(lines), global_step=step)
    elif is_named(logger, "MLFlowLogger"):
        logger.experiment.log_text(logger.run_id, _csv(lines), f"{_artifact(name, step)}.csv")
    elif is_named(logger, "CometLogger"):
        logger.experiment.log_table(f"{_artifact(name, step)}.csv", tabular_data=lines[1:], headers=lines[0])


def _at(step: int | None) -> dict[str, int]:
    return {} if step is None else {"step": step}


def _artifact(name: str, step: int | None) -> str:
    """A file name for each step, because a later file of the same name would replace it."""
    return name if step is None else f"{name}/step_{step:08d}"


def _markdown(lines: Sequence[Sequence[Any]]) -> str:
    heads, *rows = (f"|{'|'.join(map(str, line))}|" for line in lines)
    return "\n".join([heads, "|---" * len(lines[0]) + "|", *rows])


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()
