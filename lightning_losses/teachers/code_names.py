"""The names that code refers to, and whether they belong to an installed package."""

import dis
import functools
import importlib
import os
import platform
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

_PYTHON = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
# Through these, code reads values that it doesn't name; keyed by id, because some can't be hashed.
_HIDING: dict[int, tuple[str, Any]] = {
    id(value): (name, value)
    for name, value in {
        **{"eval()": eval, "exec()": exec, "globals()": globals, "__import__()": __import__},
        **{"importlib.import_module()": importlib.import_module, "sys.modules": sys.modules},
        **{"os.environ": os.environ, "os.environb": getattr(os, "environb", os.environ), "os.getenv()": os.getenv},
    }.items()
}
_WITHOUT_EFFECT = {"PUSH_NULL", "PRECALL", "NOP", "CACHE", "EXTENDED_ARG", "RESUME", "COPY_FREE_VARS", "MAKE_CELL"}


def names_in(code: types.CodeType) -> set[str]:
    """The names that code refers to, including code of inner functions; with getattr and hasattr also its strings.

    Example:
        >>> sorted(names_in((lambda x: len(x.shape)).__code__))
        ['len', 'shape']
    """
    instructions = [i for part in _parts(code) for i in dis.get_instructions(part)]
    names = {str(i.argval) for i in instructions if i.opcode in dis.hasname}
    if not names.isdisjoint({"getattr", "hasattr"}):
        names |= {i.argval for i in instructions if i.opname == "LOAD_CONST" and isinstance(i.argval, str)}
    return names


def reads_that_hide(code: types.CodeType, names: Mapping[str, Any]) -> list[str]:
    """The parts of code that read values which none of its names shows, such as an environment variable.

    Attributes of a module of the project are visible by their names, also through getattr with a literal name. Any
    other use of the module (its ``__dict__``, an argument of vars, getattr with a computed name) may read anything of
    it.

    Args:
        code: the code of a function.
        names: the values of its global and built-in names and of its closure.

    Example:
        >>> import os
        >>> reads_that_hide((lambda: os.environ["SCALE"]).__code__, {"os": os})
        ['os.environ']
        >>> reads_that_hide((lambda name: getattr(os, name)).__code__, {"os": os, "getattr": getattr})
        []
    """
    modules = dict(names)
    return sorted({read for part in _parts(code) for read in _reads_of(part, modules)})


def _reads_of(code: types.CodeType, names: dict[str, Any]) -> Iterator[str]:
    """Follows chains of names from globals and imports; `names` gets the local names of modules that it meets."""
    instructions = [i for i in dis.get_instructions(code) if i.opname not in _WITHOUT_EFFECT]
    before: list[Any] = [None, None]
    value: Any = None
    imported: Any = None
    for position, instruction in enumerate(instructions):
        operation, name = instruction.opname, instruction.argval
        last = name[-1] if isinstance(name, tuple) and name else name
        if operation in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF"):
            value = names.get(name)
        elif operation.startswith("LOAD_FAST"):
            value = names.get(_local(last))
        elif operation == "IMPORT_NAME":
            value = imported = _imported(name, before, names.get("__package__"))
        elif operation == "IMPORT_FROM":
            value = getattr(imported, name, None) if isinstance(imported, types.ModuleType) else None
        elif operation in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, types.ModuleType):
            value = vars(value).get(name)
        elif operation.startswith("STORE_FAST") or operation in ("STORE_DEREF", "STORE_NAME"):
            local = _local(last) if operation.startswith("STORE_FAST") else last
            if isinstance(value, types.ModuleType) or hides(value):
                names[local] = value
            value = None
        else:
            value = None
        if hides(value):
            yield _HIDING[id(value)][0]
        elif isinstance(value, types.ModuleType) and not is_installed(value.__name__):
            literal = before[-1] in ("getattr", "hasattr") and _takes_a_literal(
                instructions[position + 1 : position + 4]
            )
            if not literal and not any(map(_names_an_attribute, instructions[position + 1 : position + 2])):
                yield f"a use of the module {value.__name__} that names none of its attributes"
        before = [before[-1], name]


def _names_an_attribute(instruction: dis.Instruction) -> bool:
    """Whether the next instruction takes an attribute of a module, or stores the module under a name."""
    if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
        return instruction.argval != "__dict__"
    return instruction.opname.startswith("STORE_") or instruction.opname in ("IMPORT_FROM", "POP_TOP", "SWAP")


def _takes_a_literal(following: list[dis.Instruction]) -> bool:
    """Whether a call's last arguments are a literal name and, possibly, a literal default."""
    operations = [instruction.opname for instruction in following]
    return operations[:2] == ["LOAD_CONST", "CALL"] or operations == ["LOAD_CONST", "LOAD_CONST", "CALL"]


def hides(value: Any) -> bool:
    """Whether code that uses this value may read values through it that its names don't show.

    Example:
        >>> hides(eval), hides(len)
        (True, False)
    """
    return id(value) in _HIDING


def _local(name: object) -> str:
    # Distinct from global names.
    return f"local {name}"


def imports_in(code: types.CodeType, package: str | None) -> list[types.ModuleType]:
    """The modules that code imports when it runs; those that can't be imported are left out.

    Args:
        code: the code of a function.
        package: the package of its module, where relative imports start.
    """
    modules = []
    for part in _parts(code):
        before: list[Any] = []
        for instruction in dis.get_instructions(part):
            if instruction.opname == "IMPORT_NAME":
                module = _imported(str(instruction.argval), before, package, whole=True)
                modules += [module] if module else []
            before.append(instruction.argval)
    return modules


def _imported(name: str, before: list[Any], package: str | None, whole: bool = False) -> types.ModuleType | None:
    """The module that an import provides, or the last one of its path; None if it can't be imported."""
    # Pushed before it: the number of dots, and the names taken from the module.
    dots = before[-2] if isinstance(before[-2], int) else 0
    try:
        module = importlib.import_module("." * dots + name, package)
    except (ImportError, TypeError):
        return None
    return module if whole or before[-1] else sys.modules[name.partition(".")[0]]


@functools.cache
def is_installed(module: str) -> bool:
    """Whether a module belongs to Python or an installed package, and not to the user's project.

    Example:
        >>> is_installed("torch.nn"), is_installed("__main__")
        (True, False)
    """
    top = module.partition(".")[0]
    file = getattr(sys.modules.get(module), "__file__", None) or getattr(sys.modules.get(top), "__file__", None)
    # An installed program may start a script.
    if module == "__main__":
        return False
    if file is None:
        return top in sys.stdlib_module_names
    path = Path(file).resolve()
    # All places from which an environment may load packages.
    packages = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    return packages or any(path.is_relative_to(folder) for folder in _PYTHON)


@functools.cache
def version_of(module: str) -> str:
    """The version of a module's package; Python's version, if it has none."""
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
