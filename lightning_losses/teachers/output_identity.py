"""A hash of all that decides what a network puts out: weights, buffers, attributes, code; or a refusal."""

import dis
import enum
import functools
import hashlib
import logging
import platform
import sys
import sysconfig
import types
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_losses.teachers.feature_taps import is_tap

_PLAIN = (type(None), bool, int, float, complex, str, bytes, slice, range, PurePath, type(Ellipsis))
_OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, np.ufunc)
# What of a module decides nothing, and what is looked at by itself.
_OF_MODULES = {name for name in vars(nn.Module()) if name not in ("_forward_hooks", "_forward_pre_hooks")}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_OF_CLASSES = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__"}
_PYTHON = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]


class OutputIdentity:
    """Takes in values, and makes a hash of them that is the same in another process.

    Modules are taken with their parameters, all their buffers, their attributes, hooks and the bytecode of their
    classes; functions with what they refer to. What is in installed packages counts by its name and their version.

    Args:
        who: the name that errors begin with.
        identity: a text that stands for the objects that can't be seen; None refuses them.

    Example:
        >>> class Scaled(nn.Module):
        ...     def __init__(self, scale):
        ...         super().__init__()
        ...         self.scale = scale
        ...     def forward(self, inputs):
        ...         return self.scale * inputs
        >>> def digest(module):
        ...     identity = OutputIdentity("doc")
        ...     identity.add("network", module)
        ...     return identity.hexdigest()
        >>> digest(Scaled(1.0)) == digest(Scaled(1.0)) != digest(Scaled(2.0))
        True
    """

    def __init__(self, who: str, identity: str | None = None) -> None:
        self._who = who
        self._identity = identity
        self._hash = hashlib.sha256(repr(identity).encode())
        # By identity, and held, so that no other takes its place.
        self._seen: dict[int, tuple[int, Any]] = {}

    def hexdigest(self) -> str:
        """The hash of what was taken in."""
        return self._hash.hexdigest()

    def add(self, place: str, value: Any) -> None:
        """Take in a value.

        Args:
            place: where it is, for errors; it doesn't count.
            value: anything.

        Raises:
            ValueError: an object in it whose state can't be seen.
        """
        kind = type(value)
        if isinstance(value, enum.Enum):
            self._say(f"{kind.__module__}.{kind.__qualname__}.{value.name}")
        elif isinstance(value, _PLAIN + _OF_TORCH):
            self._say(f"{kind.__qualname__} {value!r}")
        elif isinstance(value, Tensor):
            self._say(f"tensor {list(value.shape)} {value.dtype}")
            self._hash.update(tensor_bytes(value))
        elif isinstance(value, types.ModuleType):
            self._say(f"package {value.__name__} {_version(value.__name__)}")
        elif id(value) in self._seen:
            self._say(f"again {self._seen[id(value)][0]}")
        else:
            self._seen[id(value)] = (len(self._seen), value)
            self._add_object(place, value)

    def _add_object(self, place: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            self._add_module(place, value)
        elif isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
            self._say(f"array {value.shape} {value.dtype}")
            self._hash.update(value.tobytes())
        elif isinstance(value, Mapping):
            self._add_class(place, type(value))
            for key, item in value.items():
                self.add(f"{place} (a key)", key)
                self.add(f"{place}[{key!r}]", item)
        elif isinstance(value, list | tuple):
            self._say(f"{type(value).__qualname__} of {len(value)}")
            for number, item in enumerate(value):
                self.add(f"{place}[{number}]", item)
        elif isinstance(value, set | frozenset):
            self._say(f"set of {sorted(map(repr, value))}")
        elif isinstance(value, functools.partial):
            self._add_all(f"{place} (a partial)", value.func, value.args, value.keywords)
        elif isinstance(value, types.MethodType):
            self._add_all(place, value.__func__, value.__self__)
        elif isinstance(value, type):
            self._add_class(place, value)
        elif isinstance(value, logging.Logger):
            self._say(f"logger {value.name}")
        elif isinstance(value, _BUILT_IN):
            self._say(f"built in {getattr(value, '__module__', None)} {getattr(value, '__qualname__', value.__name__)}")
        elif (wrapped := _wrapped(value)) is not None:
            self.add(place, wrapped)
        elif isinstance(value, types.FunctionType):
            self._add_function(place, value)
        elif isinstance(value, types.CodeType):
            self._add_code(place, value)
        else:
            self._add_state(place, value)

    def _add_module(self, place: str, module: nn.Module) -> None:
        self._add_class(place, type(module))
        for name, value in sorted(vars(module).items()):
            if name not in _OF_MODULES and name not in _HOOKS:
                self._say(name)
                self.add(f"{place}.{name}", value)
        for name in _HOOKS:
            for hook in vars(module)[name].values():
                if not is_tap(hook):
                    self.add(f"{place}.{name}", hook)
        for kind in ("_parameters", "_buffers", "_modules"):
            for name, value in vars(module)[kind].items():
                self._say(f"{kind} {name}")
                self.add(f"{place}.{name}", value)

    def _add_class(self, place: str, kind: type) -> None:
        for base in kind.__mro__[:-1]:
            self._say(f"class {base.__module__}.{base.__qualname__}")
            if _is_installed(base.__module__):
                self._say(_version(base.__module__))
                continue
            for name, value in sorted(vars(base).items()):
                if name in _OF_CLASSES or isinstance(value, types.GetSetDescriptorType | types.MemberDescriptorType):
                    continue
                self._say(name)
                if isinstance(value, staticmethod | classmethod):
                    value = value.__func__
                if isinstance(value, property):
                    self._add_all(f"{place}.{name}", value.fget, value.fset)
                elif isinstance(value, _PLAIN + _OF_TORCH + (Tensor, list, tuple, dict, types.FunctionType)):
                    self.add(f"{place}.{name}", value)

    def _add_function(self, place: str, function: types.FunctionType) -> None:
        self._say(f"function {function.__module__}.{function.__qualname__}")
        if _is_installed(function.__module__):
            self._say(_version(function.__module__))
            return
        self._add_all(f"{place} ({function.__name__})", function.__defaults__, function.__kwdefaults__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                self.add(f"{place} ({name} in {function.__name__})", cell.cell_contents)
            except ValueError as error:
                if "is empty" not in str(error):
                    raise
        self._add_code(place, function.__code__)
        for name in sorted(_names_in(function.__code__)):
            if name in function.__globals__:
                value = function.__globals__[name]
                self._say(name)
                self.add(f"{name} of {function.__module__}", value)
                if isinstance(value, types.ModuleType) and not _is_installed(value.__name__):
                    for part in sorted(_names_in(function.__code__) & vars(value).keys()):
                        self.add(f"{value.__name__}.{part}", vars(value)[part])

    def _add_code(self, place: str, code: types.CodeType) -> None:
        self._say(f"code {platform.python_version_tuple()[:2]} {code.co_names} {code.co_varnames}")
        self._hash.update(code.co_code)
        self.add(place, list(code.co_consts))

    def _add_state(self, place: str, value: Any) -> None:
        slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
        state = {**{name: getattr(value, name) for name in slots}, **getattr(value, "__dict__", {})}
        if not state and not _is_plain_class(type(value)):
            if self._identity is None:
                raise ValueError(
                    f"{self._who}: the key of the cache can't see what {place}, a {type(value).__name__}, holds; give "
                    "identity=, a text that changes whenever it does."
                )
            self._say(f"unseen {type(value).__module__}.{type(value).__qualname__}")
            return
        self._add_class(place, type(value))
        for name in sorted(state):
            self._say(name)
            self.add(f"{place}.{name}", state[name])

    def _add_all(self, place: str, *values: Any) -> None:
        for value in values:
            self.add(place, value)

    def _say(self, text: str) -> None:
        self._hash.update(f"{len(text)} {text}".encode())


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor's elements, in order.

    Example:
        >>> tensor_bytes(torch.tensor([1, 2], dtype=torch.uint8))
        b'\\x01\\x02'
    """
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _wrapped(value: Any) -> Any:
    """The function behind one that torch compiles or that remembers its results."""
    own = getattr(value, "__dict__", None) or {}
    return own.get("_torchdynamo_orig_callable", own.get("_orig_mod", own.get("__wrapped__")))


def _names_in(code: types.CodeType) -> set[str]:
    """The names that code refers to, that of the functions in it too."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return {str(i.argval) for i in dis.get_instructions(code) if i.opcode in dis.hasname}.union(*map(_names_in, inner))


def _slots(kind: type) -> list[str]:
    named = vars(kind).get("__slots__", ())
    return [named] if isinstance(named, str) else list(named)


def _is_plain_class(kind: type) -> bool:
    """Whether an object without attributes has no state: its classes are written in Python."""
    return all(base is object or "__dict__" in dir(base) or "__slots__" in vars(base) for base in kind.__mro__)


@functools.cache
def _is_installed(module: str) -> bool:
    """Whether a module is Python's own, or that of an installed package, and not of the project at hand."""
    found = sys.modules.get(module.partition(".")[0] if module not in sys.modules else module)
    file = getattr(found, "__file__", None)
    # A program may be started by an installed one.
    if module == "__main__" or file is None:
        return module != "__main__" and found is not None
    path = Path(file).resolve()
    # Wherever an environment may take its packages from.
    packages = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    return packages or any(path.is_relative_to(folder) for folder in _PYTHON)


@functools.cache
def _version(module: str) -> str:
    top = sys.modules.get(module.partition(".")[0])
    return str(getattr(top, "__version__", platform.python_version()))
