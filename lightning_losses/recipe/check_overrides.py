"""Checks command-line overrides: one readable message that lists the choices, instead of a stack trace."""

import itertools
from collections.abc import Iterator, Sequence

from hydra import compose, initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lightning_losses.recipe.check_config import ConfigError, check_config, nearest

CONFIG_MODULE = "lightning_losses.conf"


def check_overrides(
    config_name: str, arguments: Sequence[str], schema: type, *, multirun: bool = False
) -> list[DictConfig]:
    """Compose the configurations of the jobs that these overrides start, and raise `ConfigError` if one can't run.

    Of a sweep, each value is tried once, the others at their first value.

    Args:
        config_name: the primary configuration.
        arguments: overrides as they came from the command line.
        schema: the types of the top level's plain values.
        multirun: whether several values of one key are allowed.

    Returns:
        The jobs' configurations.
    """
    try:
        overrides = OverridesParser.create().parse_overrides(list(arguments))
    except OverrideParseException as error:
        raise ConfigError(f"{error.override}: overrides look like key=value.") from None
    if not multirun and (sweeps := [override.input_line for override in overrides if override.is_sweep_override()]):
        raise ConfigError(f"{sweeps[0]}: several values are a sweep; add -m (--multirun).")
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return [
            _checked(config_name, OverridesParser.create().parse_overrides(job), schema) for job in _jobs(overrides)
        ]


def _jobs(overrides: list[Override]) -> Iterator[list[str]]:
    """Override lists in which every swept value occurs."""
    choices = []
    for override in overrides:
        if override.is_sweep_override() and (override.is_choice_sweep() or override.is_range_sweep()):
            choices.append([f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()])
        elif not override.is_sweep_override():
            choices.append([str(override.input_line)])
    for job in itertools.zip_longest(*choices):
        yield [value if value is not None else own[0] for value, own in zip(job, choices, strict=True)]
    if not choices:
        yield []


def _checked(config_name: str, overrides: list[Override], schema: type) -> DictConfig:
    loader = GlobalHydra.instance().config_loader()
    groups = _groups(loader)
    chosen = [override for override in overrides if override.key_or_group in groups]
    values = [override for override in overrides if override.key_or_group not in groups]
    for override in chosen:
        _check_choice(loader, override)
    lines = [str(override.input_line) for override in overrides]
    base = _compose(config_name, [str(override.input_line) for override in chosen])
    for override in values:
        _check_key(base, override, groups)
    config = _compose(config_name, lines)
    check_config(config, schema)
    return config


def _groups(loader: ConfigLoader, parent: str = "") -> set[str]:
    names = loader.get_group_options(parent, results_filter=ObjectType.GROUP)
    paths = {f"{parent}/{name}" if parent else name for name in names}
    return paths.union(*(_groups(loader, path) for path in paths if path.split("/")[0] != "hydra"))


def _check_choice(loader: ConfigLoader, override: Override) -> None:
    value, options = override.value(), loader.get_group_options(override.key_or_group)
    if isinstance(value, (str, int, float)) and str(value) not in options:
        raise ConfigError(
            f"{override.input_line}: there is no {override.key_or_group} '{value}'; {nearest(str(value), options)}"
        )


def _check_key(base: DictConfig, override: Override, groups: set[str]) -> None:
    key = override.key_or_group
    if key.split(".")[0].split("/")[0] == "hydra":
        return
    if not key:
        raise ConfigError(f"{override.input_line}: overrides look like key=value.")
    # What is added or removed need not be there, but the part of the configuration that it belongs to must.
    free = override.is_add() or override.is_force_add() or override.is_delete()
    node: object = base
    for depth, part in enumerate(key.split(".")[:1] if free else key.split(".")):
        if not isinstance(node, DictConfig):
            return
        if part not in node:
            above = ".".join(key.split(".")[:depth])
            known = {str(name) for name in node} | (groups - {"hydra"} if depth == 0 else set())
            raise ConfigError(
                f"{override.input_line}: there is no '{part}' in {above or 'the configuration'}; {nearest(part, known)}"
            )
        node = node._get_node(part)
        if isinstance(node, DictConfig) and node._is_interpolation():
            node = node._maybe_dereference_node()


def _compose(config_name: str, overrides: list[str]) -> DictConfig:
    try:
        return compose(config_name, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        reasons = [str(reason).strip().splitlines()[0] for reason in (error, error.__cause__) if str(reason or "")]
        raise ConfigError("; ".join(dict.fromkeys(reasons))) from None
