"""Overrides whose values are written as Python writes them, as W&B's agent does, in Hydra's words."""

import ast
from collections.abc import Iterator, Sequence
from typing import Any


def plain_overrides(arguments: Sequence[str]) -> list[str]:
    """Overrides in which dictionaries are dotted names and None is null; what is no Python value stays as it is.

    W&B's agent writes a nested parameter as ``optimizer={'lr': 0.01}``, which Hydra can't read, and a null as ``None``,
    which Hydra takes for a text.

    Example:
        >>> plain_overrides(["optimizer={'lr': 0.01, 'momentum': None}", "seed=1", "-m"])
        ['optimizer.lr=0.01', 'optimizer.momentum=null', 'seed=1', '-m']
    """
    return [line for argument in arguments for line in _plain(argument)]


def _plain(argument: str) -> Iterator[str]:
    key, equals, value = argument.partition("=")
    if equals and value == "None":
        yield f"{key}=null"
    elif equals and value.startswith("{'"):
        try:
            content = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            yield argument
        else:
            yield from _flat(key, content)
    else:
        yield argument


def _flat(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(f"{key}.{name}", item)
    else:
        yield f"{key}={'null' if value is None else value}"
