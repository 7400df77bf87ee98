"""Names that a package offers, and loads only when they are asked for.

A package writes its imports once, ``from home import name as name`` under ``TYPE_CHECKING``: type checkers and editors
read them there, and so does the program, when a name is asked for.
"""

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import Any


@cache
def exports(file: str) -> dict[str, str]:
    """The names that a package's ``__init__.py`` imports under ``TYPE_CHECKING``, and the module of each.

    Example:
        >>> import lightning_losses
        >>> exports(lightning_losses.__file__)["Objective"]
        'lightning_losses.objective'
    """
    imports = (node for node in ast.walk(ast.parse(Path(file).read_bytes())) if isinstance(node, ast.ImportFrom))
    return {alias.name: str(node.module) for node in imports for alias in node.names if alias.asname == alias.name}


def lazily(package: str, file: str, name: str) -> Any:
    """What a package's ``__getattr__`` returns for a name.

    Args:
        package: the package's ``__name__``.
        file: its ``__file__``.
        name: what is asked for.

    Raises:
        AttributeError: a name that the package doesn't offer.
    """
    homes = exports(file)
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(homes[name]), name)
