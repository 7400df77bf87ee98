"""A hash of the code that decides a result, and of no other code."""

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object

_PACKAGE = "lightning_losses"


def source_digest(names: Iterable[str]) -> str:
    """A hash of the files that these classes, functions or modules are written in, and of what those import.

    Followed are imports from this package, each name to the module that defines it, so that a class imported from
    ``lightning_losses.losses`` brings its own file and not every loss. Comments, docstrings and layout don't count.
    A package's ``__init__`` counts only where it defines what is imported; what type checkers alone import never does.
    What a function finds by a string at run time is not seen: name it. The hash is of the files as they are at the
    first call.

    Args:
        names: dotted names, such as a configuration's ``_target_``; those of other packages are left out.

    Raises:
        ValueError: a name in this package that there isn't.

    Example:
        >>> one = source_digest(["lightning_losses.losses.KD"])
        >>> one == source_digest(["lightning_losses.losses.distillation.divergences.kd"]) != source_digest(
        ...     ["lightning_losses.losses.NKD"])
        True
    """
    code = hashlib.sha256()
    for module in source_modules(names):
        code.update(f"{module}\n{_code(module)}\n".encode())
    return code.hexdigest()[:16]


def source_modules(names: Iterable[str]) -> list[str]:
    """The modules of this package that `source_digest` hashes, by name.

    Example:
        >>> source_modules(["lightning_losses.numerics.checks"])
        ['lightning_losses.numerics.checks']
    """
    found: set[str] = set()
    waiting = {_home(name) for name in names if name.split(".")[0] == _PACKAGE}
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting |= set(_imports(module)) - found
    return sorted(found)


def targets(node: Any) -> Iterator[str]:
    """Every ``_target_`` of a plain configuration.

    Example:
        >>> list(targets({"a": [{"_target_": "x.Y"}], "_target_": "z"}))
        ['x.Y', 'z']
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_" and isinstance(value, str):
                yield value
            else:
                yield from targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from targets(value)


def essential(node: Any) -> Any:
    """A plain configuration without the arguments that have their targets' defaults.

    Two configurations with the same rest build the same: a default that is changed is a change of the code, and an
    argument that is new, and written out at its default, changes nothing.

    Example:
        >>> essential({"loss": {"_target_": "lightning_losses.losses.KD", "temperature": 2.0, "reduction": "mean"}})
        {'loss': {'_target_': 'lightning_losses.losses.KD', 'temperature': 2.0}}
    """
    if isinstance(node, list | tuple):
        return [essential(value) for value in node]
    if not isinstance(node, dict):
        return node
    defaults = _defaults(node["_target_"]) if isinstance(node.get("_target_"), str) else {}
    return {
        name: essential(value)
        for name, value in node.items()
        # 1 and 1.0 build the same, 1 and True may not.
        if not (
            name in defaults and defaults[name] == value and isinstance(value, bool) == isinstance(defaults[name], bool)
        )
    }


@functools.cache
def _defaults(target: str) -> dict[str, Any]:
    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except (ImportError, InstantiationException, TypeError, ValueError):
        return {}
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is None or isinstance(parameter.default, bool | int | float | str)
    }


@functools.cache
def _home(name: str) -> str:
    """The module that a name is defined in; a module's own name is its own."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        try:
            if importlib.util.find_spec(prefix) is None:
                continue
        except ModuleNotFoundError:
            continue
        if end == len(parts):
            return prefix
        value = getattr(importlib.import_module(prefix), parts[end], None)
        if value is None:
            break
        home = getattr(value, "__module__", None)
        # A constant has no home of its own: it is where it was found.
        return home if isinstance(home, str) and home.split(".")[0] == _PACKAGE else prefix
    raise ValueError(f"source_digest: there is no {name!r}.")


@functools.cache
def _imports(module: str) -> frozenset[str]:
    found = set()
    for node in _running(_tree(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {_home(name) for name in names if name.split(".")[0] == _PACKAGE}
    return frozenset(found)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """A tree's nodes without those that only a type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        guarded = isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
        if not guarded:
            yield from _running(child)


@functools.cache
def _code(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree)


def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    with open(spec.origin, "rb") as stream:
        return ast.parse(stream.read())
