"""Checks a configuration of Python's logging before Hydra applies it."""

import logging
import logging.config
import os
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from lightning_losses.experiments.config.instantiate import ConfigError, nearest

PARTS = ("job_logging", "hydra_logging")
_TOP = ("version", "formatters", "handlers", "loggers", "root", "disable_existing_loggers")
# What a file may say. Python's logging sets what stands under "." after a handler was made, and gives every other key
# to whatever "()" names.
_KEYS = {
    "formatters": (
        *("()", "class", "format", "datefmt", "style", "validate"),
        *("log_colors", "secondary_log_colors", "reset", "no_color"),
    ),
    "handlers": (
        *("()", "class", "level", "formatter", "stream", "filename", "mode", "encoding", "delay", "errors"),
        *("maxBytes", "backupCount", "when", "interval", "utc"),
    ),
    "loggers": ("level", "handlers", "propagate"),
    "root": ("level", "handlers"),
}


def check_logging(part: str, node: Any, given: set[str]) -> None:
    """Raise `ConfigError` for logging settings that only the command line may give, or that Python's logging refuses.

    Nothing is set up, and no file but the empty device is opened.

    Args:
        part: job_logging or hydra_logging.
        node: that part of Hydra's configuration.
        given: the keys of the command line.
    """
    where = f"hydra.{part}"
    if node is None:
        return
    plain = _plain(node)
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}={plain}: this sets up no logging; give a mapping, or null.")
    for path, keys, known in _sections(where, plain):
        for key in keys:
            if key not in known and f"{path}.{key}" not in given:
                raise ConfigError(f"{path}.{key}: a file may not set this for logging; {nearest(str(key), known)}")
    if plain.get("root") is None:
        # Hydra leaves logging alone.
        return
    for path, setup in _trials(where, plain):
        try:
            setup()
        except (ValueError, TypeError, AttributeError, LookupError, ImportError, OSError) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise ConfigError(
                f"{path}: Python's logging refuses this ({type(error.__cause__ or error).__name__}: {reason}); write "
                "it as logging.config describes it."
            ) from None


def _sections(where: str, plain: dict[Any, Any]) -> Iterator[tuple[str, list[Any], tuple[str, ...]]]:
    """Each mapping of a configuration of logging: its place, its keys, and the allowed keys."""
    yield where, list(plain), _TOP
    for section, known in _KEYS.items():
        content = plain.get(section)
        if content is None:
            continue
        parts = {section: content} if section == "root" else content
        if not isinstance(parts, dict):
            raise ConfigError(f"{where}.{section}={parts}: give a mapping, a name for each.")
        for name, one in parts.items():
            path = f"{where}.{name}" if section == "root" else f"{where}.{section}.{name}"
            if not isinstance(one, dict):
                raise ConfigError(f"{path}={one}: give a mapping of {', '.join(known)}.")
            yield path, list(one), known


def _trials(where: str, plain: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Functions that set up each part as Python's logging does, except for files and the process's loggers."""
    if plain.get("version") != 1:
        raise ConfigError(f"{where}.version={plain.get('version')}: there is one version of this form; give 1.")
    configurator = logging.config.DictConfigurator(plain)
    # The same tables, which follow ext:// and cfg:// when they are read.
    content: Any = configurator.config
    formatters, handlers = content.get("formatters") or {}, content.get("handlers") or {}
    for name in list(formatters):
        if formatters[name].get("style", "%") == "{":
            raise ConfigError(f"{where}.formatters.{name}.style={{: Hydra refuses it; give % or $.")

        def format_(name: Any = name) -> None:
            formatters[name] = configurator.configure_formatter(formatters[name])

        yield f"{where}.formatters.{name}", format_
    for name in list(handlers):

        def handle(name: Any = name) -> None:
            handler = handlers[name]
            if "filename" in handler:
                handler.update(filename=os.devnull, delay=False)
            if handler.get("formatter") is not None and handler["formatter"] not in formatters:
                raise ValueError(f"there is no formatter {handler['formatter']}")
            configured = configurator.configure_handler(handler)
            handlers[name] = configured
            if "filename" in plain["handlers"][name]:
                configured.close()

        yield f"{where}.handlers.{name}", handle
    loggers = {f"loggers.{name}": logger for name, logger in (content.get("loggers") or {}).items()}
    for name, logger in {**loggers, "root": content["root"]}.items():

        def log(logger: Any = logger) -> None:
            if unknown := [name for name in logger.get("handlers") or () if name not in handlers]:
                raise ValueError(f"there is no handler {unknown[0]}")
            level = logger.get("level")
            if level is not None:
                logging.Handler().setLevel(level)

        yield f"{where}.{name}", log


def _plain(node: Any) -> Any:
    """Plain values; interpolations that only a job can resolve stay as they are written."""
    if isinstance(node, DictConfig):
        return {name: _plain(_value(node, name)) for name in node}
    if isinstance(node, ListConfig):
        return [_plain(_value(node, position)) for position in range(len(node))]
    return node


def _value(node: Any, name: Any) -> Any:
    try:
        return node[name]
    except OmegaConfBaseException:
        return str(node._get_node(name)._value())
