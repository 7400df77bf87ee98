"""The output of ``--help``: the recipe's purpose, its configuration groups, and its configuration."""

import argparse
import importlib
import importlib.metadata
import textwrap
from collections.abc import Iterator
from importlib.resources import files

import yaml
from omegaconf import OmegaConf

import lightning_losses
from lightning_losses.experiments.config.check_overrides import CONFIG_MODULE, shown_config


def version_line() -> str:
    """The output of ``--version``."""
    return f"lightning_losses {lightning_losses.__version__} (Hydra {importlib.metadata.version('hydra-core')})"


def help_page(recipe: str, arguments: argparse.Namespace, program: str) -> str:
    """The output of ``--help``, without loading torch.

    Args:
        recipe: train, compare or calibrate.
        arguments: parsed; overrides show in the configuration.
        program: the command that starts the recipe, for the examples.

    Raises:
        ConfigError: overrides that can't be composed.
    """
    config = shown_config(arguments.config_name or recipe, arguments.overrides, config_dir=arguments.config_dir)
    about = importlib.import_module(f"lightning_losses.recipes.{recipe}").__doc__ or ""
    groups = "\n".join(
        textwrap.fill(f"{group}={', '.join(_choices(group))}", 118, subsequent_indent="    ", break_on_hyphens=False)
        for group in dict.fromkeys(_groups(recipe))
    )
    return "\n\n".join(
        [
            about.strip().replace(f"python recipes/{recipe}.py", program),
            f"Groups: GROUP=CHOICE chooses a part.\n\n{groups}",
            f"Settings: KEY=VALUE sets one, by its dotted name.\n\n{OmegaConf.to_yaml(config).strip()}",
            "-m (--multirun) runs lists of values, KEY=A,B. --cfg job prints the configuration alone.\n"
            "--hydra-help lists the other options.",
        ]
    )


def _groups(name: str) -> Iterator[str]:
    """The groups in the defaults of a primary configuration, and in the defaults of the configurations it includes."""
    for entry in yaml.safe_load(files(CONFIG_MODULE).joinpath(f"{name}.yaml").read_text())["defaults"]:
        if isinstance(entry, dict):
            (key,) = entry
            yield key.removeprefix("override ").partition("@")[0]
        elif entry != "_self_":
            yield from _groups(entry)


def _choices(group: str) -> list[str]:
    return sorted(file.name.removesuffix(".yaml") for file in files(f"{CONFIG_MODULE}.{group}").iterdir()
                  if file.name.endswith(".yaml"))  # fmt: skip
