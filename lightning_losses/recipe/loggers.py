"""What a run tells its logger, beside the metrics that Lightning sends there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from lightning_losses.report import COLUMNS, Report


def plain_settings(config: DictConfig) -> dict[str, Any]:
    """The whole configuration as plain values, interpolations resolved."""
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


def make_logger(config: DictConfig, folder: Path) -> Logger | None:
    """The logger that the configuration names, writing into the run's folder, told the whole configuration."""
    if not config.get("logger"):
        return None
    logger: Logger = instantiate(config.logger, save_dir=str(folder))
    logger.log_hyperparams(plain_settings(config))
    return logger


def log_report(logger: Logger | None, report: Report, pictures: Sequence[Path]) -> None:
    """Send the report's table and pictures to Weights & Biases; other loggers have no place for them."""
    if not isinstance(logger, WandbLogger):
        return
    logger.log_table("report/table", columns=list(COLUMNS), data=report.rows())
    for picture in pictures:
        logger.log_image(f"report/{picture.stem}", [str(picture)])
    logger.experiment.finish()
