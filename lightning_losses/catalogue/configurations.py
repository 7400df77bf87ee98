"""What every file of ``conf/`` holds."""

from functools import cache
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf


@cache
def configurations() -> dict[str, Any]:
    """What every file in the groups of ``conf/`` holds, by ``group=name``."""
    found = {}
    for group in sorted(files("lightning_losses.conf").iterdir(), key=lambda path: path.name):
        if group.is_dir():
            for path in sorted(group.iterdir(), key=lambda path: path.name):
                if path.name.endswith(".yaml"):
                    found[f"{group.name}={path.name.removesuffix('.yaml')}"] = OmegaConf.create(path.read_text())
    return found
