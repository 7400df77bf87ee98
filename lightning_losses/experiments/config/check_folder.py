"""Refuses a configuration whose results could not be written."""

from pathlib import Path

from lightning_losses.environment import writable_folder
from lightning_losses.experiments.config.check_config import ConfigError


def check_writable(folder: Path) -> None:
    """Raise `ConfigError` before anything was done if a folder, or the one to make it in, can't be written to."""
    try:
        writable_folder.check_writable(folder)
    except OSError as error:
        raise ConfigError(f"{error.filename} can't be written: {error.strerror}.") from None
