"""What code refers to by name, and whether that is of an installed package."""

import dis
import functools
import importlib
import platform
import sys
import sysconfig
import types
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

_PYTHON = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
# Through these code reads names that it doesn't hold.
_HIDING = {"eval", "exec", "globals", "__import__"}


def names_in(code: types.CodeType) -> set[str]:
    """The names that code refers to, that of the functions in it too.

    Example:
        >>> sorted(names_in((lambda x: len(x.shape)).__code__))
        ['len', 'shape']
    """
    return {str(i.argval) for part in _parts(code) for i in dis.get_instructions(part) if i.opcode in dis.hasname}


def names_that_hide(code: types.CodeType) -> list[str]:
    """The built-in functions in code that read what none of its names tells.

    Example:
        >>> names_that_hide((lambda name: globals()[name]).__code__)
        ['globals']
    """
    called = {i.argval for part in _parts(code) for i in dis.get_instructions(part) if i.opname == "LOAD_GLOBAL"}
    return sorted(_HIDING & called)


def imports_in(code: types.CodeType, package: str | None) -> list[types.ModuleType]:
    """The modules that code imports when it runs; those that can't be imported are left out.

    Args:
        code: a function's.
        package: that of its module, from which relative imports start.
    """
    modules = []
    for part in _parts(code):
        before: list[object] = []
        for instruction in dis.get_instructions(part):
            if instruction.opname == "IMPORT_NAME":
                # Pushed before it: how many dots there are, and what is taken from the module.
                dots = before[-2] if isinstance(before[-2], int) else 0
                try:
                    modules.append(importlib.import_module("." * dots + str(instruction.argval), package))
                except (ImportError, TypeError):
                    continue
            before.append(instruction.argval)
    return modules


@functools.cache
def is_installed(module: str) -> bool:
    """Whether a module is Python's own, or that of an installed package, and not of the project at hand.

    Example:
        >>> is_installed("torch.nn"), is_installed("__main__")
        (True, False)
    """
    top = module.partition(".")[0]
    file = getattr(sys.modules.get(module), "__file__", None) or getattr(sys.modules.get(top), "__file__", None)
    # A program may be started by an installed one.
    if module == "__main__":
        return False
    if file is None:
        return top in sys.stdlib_module_names
    path = Path(file).resolve()
    # Wherever an environment may take its packages from.
    packages = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    return packages or any(path.is_relative_to(folder) for folder in _PYTHON)


@functools.cache
def version_of(module: str) -> str:
    """The version of the package that a module is of; Python's, if it is of none."""
    top = module.partition(".")[0]
    own = getattr(sys.modules.get(top), "__version__", None)
    if own is None and top not in sys.stdlib_module_names:
        own = [metadata.version(package) for package in _packages().get(top, [])] or None
    return str(own or platform.python_version())


@functools.cache
def _packages() -> dict[str, list[str]]:
    return {name: sorted(set(packages)) for name, packages in metadata.packages_distributions().items()}


def _parts(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _parts(constant)
