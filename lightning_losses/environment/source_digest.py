"""A hash of the code that decides a result, and of no other code."""

import ast
import functools
import hashlib
import importlib
import importlib.util
from collections.abc import Iterable, Iterator

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
