"""The command of a sweep's run: expands macros like W&B's agent."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_losses.environment.atomic_files import write_text
from lightning_losses.experiments.config.check_config import ConfigError, nearest

DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
# Macros that write Hydra's overrides.
HYDRA_MACROS = ("${args_no_hyphens}", "${args_append_hydra}", "${args_override_hydra}")
_MACROS = (
    "env",
    "interpreter",
    "program",
    "args",
    "args_no_hyphens",
    "args_no_boolean_flags",
    "args_no_equals",
    "args_append_hydra",
    "args_override_hydra",
    "args_json",
    "args_json_file",
)
_MACRO = re.compile(r"\$\{([^}]*)\}")
_ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


def expand(
    command: Sequence[Any],
    parameters: Mapping[str, Any],
    *,
    program: str | None,
    interpreter: str = sys.executable,
    json_file: Path | None = None,
) -> list[str]:
    """The words of the command that starts a run.

    Args:
        command: the sweep file's command; W&B's default if it is empty.
        parameters: the run's parameters, by name.
        program: the sweep file's program.
        interpreter: the value of ``${interpreter}``; W&B's agent uses the ``python`` on the path.
        json_file: the file to write for ``${args_json_file}``.

    Example:
        >>> expand(["${program}", "objective=kd", "${args_no_hyphens}"], {"optimizer.lr": 0.01}, program="train.py")
        ['train.py', 'objective=kd', 'optimizer.lr=0.01']
    """
    flags = [f"{name}={value}" for name, value in parameters.items()]
    macros: dict[str, list[str]] = {
        "env": ["/usr/bin/env"],
        "interpreter": [interpreter],
        "program": [] if program is None else [program],
        "args": [f"--{flag}" for flag in flags],
        "args_no_hyphens": flags,
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in parameters.items()
            if value is not False
        ],
        "args_no_equals": [word for name, value in parameters.items() for word in (f"--{name}", str(value))],
        "args_append_hydra": [f"+{flag}" for flag in flags],
        "args_override_hydra": [f"++{flag}" for flag in flags],
        "args_json": [json.dumps(dict(parameters))],
        "args_json_file": [str(json_file)],
    }
    words: list[str] = []
    for item in command or DEFAULT_COMMAND:
        text = _ENVIRONMENT.sub(lambda found: os.environ.get(found[1], found[1]), str(item))
        if text == "${args_json_file}" and json_file is not None:
            write_text(json_file, macros["args_json"][0])
        words += macros[text[2:-1]] if text.startswith("${") and text.endswith("}") else [text]
    return words


def check_command(command: Any, program: Any) -> None:
    """Raise `ConfigError` for unknown macros, which W&B's agent would drop silently."""
    if program is not None and not isinstance(program, str):
        raise ConfigError(f"program: {program!r} came; give the path of a script.")
    if not isinstance(command, list):
        raise ConfigError(f"command: {command!r} came; give a list of words.")
    for item in command or DEFAULT_COMMAND:
        for macro in _MACRO.findall(str(item)):
            if macro.startswith("envvar:"):
                continue
            if macro not in _MACROS:
                raise ConfigError(f"command: there is no ${{{macro}}}; {nearest(macro, _MACROS)}")
            if str(item) != f"${{{macro}}}":
                raise ConfigError(f"command: {item} came; ${{{macro}}} is replaced only where it is a word of its own.")
            if macro == "program" and program is None:
                raise ConfigError("program: there is none, and the command has ${program}; give the path of a script.")


def recipe_of(words: Sequence[str]) -> str | None:
    """The recipe of this library that a command starts, by its file, its module or its command-line name."""
    for before, word in zip(("", *words), words, strict=False):
        name = Path(word).stem if word.endswith(".py") else word.rpartition(".")[2]
        folder = Path(word).parent.name if word.endswith(".py") else word.rpartition(".")[0].rpartition(".")[2]
        if name in ("train", "calibrate") and (folder == "recipes" or Path(before).name == "lightning-losses"):
            return name
    return None
