"""A hash of everything that decides a network's output: weights, buffers, attributes, code; or a refusal."""

import builtins
import contextlib
import enum
import functools
import hashlib
import inspect
import logging
import platform
import re
import types
import typing
from collections import defaultdict, deque, namedtuple
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_losses.teachers.code_names import hides, imports_in, is_installed, names_in, reads_that_hide, version_of
from lightning_losses.teachers.feature_taps import is_tap

_OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, PurePath, type(Ellipsis), *_OF_TORCH)
_BUILT_IN = (
    *(types.BuiltinFunctionType, types.MethodDescriptorType, types.ClassMethodDescriptorType),
    *(types.WrapperDescriptorType, types.MethodWrapperType, np.ufunc),
)
_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType, type(vars(namedtuple("_", "field"))["field"]))
# Attributes of a module that don't affect its output, or are hashed separately.
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_WITH_KEYWORDS = tuple(f"{name}_with_kwargs" for name in _HOOKS)
# The last two are notes of the compiler.
_OF_MODULES = {*vars(nn.Module()), "_is_torch_compile", "_compile_kwargs"}
_OF_CLASSES = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__", "_abc_impl"),
    # Set by copying an instance.
    "__slotnames__",
    # Annotations don't affect the output.
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__orig_bases__"),
    *("__parameters__", "__type_params__", "__dataclass_fields__", "__dataclass_params__"),
}


class OutputIdentity:
    """Hashes values so that the hash is the same in another process.

    A module counts with its parameters, all its buffers, its attributes, hooks and the bytecode of its classes; a
    function with everything that it refers to. Code of installed packages counts by its name and the package's version.

    Args:
        who: the name that errors begin with.
        identity: a text that stands for objects whose state can't be read; None refuses them.

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
        # By id; held, so that no other object gets the same id.
        self._seen: dict[int, tuple[int, Any]] = {}
        self._classes: set[type] = set()
        self._named: set[tuple[str, ...]] = set()
        # The submodules of the first module, whose mode follows its own.
        self._switched: set[int] | None = None

    def hexdigest(self) -> str:
        """The hash of all values so far."""
        return self._hash.hexdigest()

    def add(self, place: str, value: Any) -> None:
        """Hash a value; its kind is hashed first, in brackets that no text can imitate.

        Args:
            place: the value's place, for errors; it is not hashed.
            value: anything.

        Raises:
            ValueError: an object in it whose state can't be read.
        """
        value = _without_compiler(value)
        kind = type(value)
        self._hash.update(b"(")
        self._say(f"{kind.__module__}.{kind.__qualname__}")
        if kind in _PLAIN or isinstance(value, PurePath):
            self._say(repr(value))
        elif isinstance(value, types.ModuleType):
            self._say(f"{value.__name__} {version_of(value.__name__)}")
            if not is_installed(value.__name__):
                # Code may read anything of it.
                self._unseen(place, value)
        elif id(value) in self._seen:
            self._say(f"again {self._seen[id(value)][0]}")
        else:
            self._seen[id(value)] = (len(self._seen), value)
            self._add_object(place, value)
        self._hash.update(b")")

    def _add_object(self, place: str, value: Any) -> None:
        if isinstance(value, torch.jit.ScriptModule) or hides(value):
            self._unseen(place, value)
        elif callable(told := getattr(type(value), "cache_identity", None)):
            # A class that tells what decides its output; its own code is not read.
            self.add(place, told(value))
        elif isinstance(value, nn.Module):
            self._add_module(place, value)
        elif isinstance(value, enum.Enum):
            self._say(f"member {value.name}")
            self._add_class(place, type(value))
            self._add_state(place, value)
        elif isinstance(value, Tensor | np.ndarray | np.generic):
            self._add_numbers(place, value)
        elif isinstance(value, (Mapping, list, tuple, set, frozenset, deque, *_PLAIN)):
            self._add_contents(place, value)
            self._add_subclass(place, value)
        elif isinstance(value, slice):
            self._add_all(place, value.start, value.stop, value.step)
        elif isinstance(value, re.Pattern):
            self._add_all(place, value.pattern, value.flags)
        elif isinstance(value, functools.partial):
            self._add_all(f"{place} (a partial)", value.func, value.args, value.keywords)
            self._add_subclass(place, value)
        elif isinstance(value, types.MethodType):
            self._add_all(place, value.__func__, value.__self__)
        elif isinstance(value, type):
            self._add_class(place, value)
        elif isinstance(value, logging.Logger):
            self._say(f"logger {value.name}")
        elif isinstance(value, _BUILT_IN):
            self._say(f"built in {getattr(value, '__module__', None)} {getattr(value, '__qualname__', value.__name__)}")
            if not isinstance(owner := getattr(value, "__self__", None), types.ModuleType):
                self.add(f"{place} (an object's own)", owner)
        elif isinstance(value, types.CodeType):
            self._add_code(place, value)
        elif isinstance(value, typing.TypeVar | types.UnionType) or typing.get_origin(value) is not None:
            self._say(f"annotation {value!r}")
        elif (inner := _wrapped(value)) is not None:
            self._add_all(place, *inner)
        elif isinstance(value, types.FunctionType):
            self._add_function(place, value)
        else:
            self._add_instance(place, value)

    def _add_numbers(self, place: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.layout not in (torch.strided, torch.jagged) and not value.is_quantized:
            self._say(str(value.layout))
            value = value.to_dense()
        plain = not (value.is_quantized or value.is_nested or value.is_meta) if isinstance(value, Tensor) else True
        if not plain or (not isinstance(value, Tensor) and value.dtype.hasobject):
            self._unseen(place, value)
            return
        self._say(f"{list(value.shape)} {value.dtype}")
        self._say_bytes(tensor_bytes(value) if isinstance(value, Tensor) else value.tobytes())
        self._add_subclass(place, value)

    def _add_contents(self, place: str, value: Any) -> None:
        if isinstance(value, Mapping):
            self._say(f"mapping of {len(value)}")
            for key, item in value.items():
                self.add(f"{place} (a key)", key)
                self.add(f"{place}[{key!r}]", item)
        elif isinstance(value, set | frozenset):
            self._say(f"{len(value)} in {sorted(self._digest_of(f'{place} (an element)', item) for item in value)}")
        elif isinstance(value, list | tuple | deque):
            self._say(f"sequence of {len(value)}")
            for number, item in enumerate(value):
                self.add(f"{place}[{number}]", item)
        else:
            plain: Any = next(kind for kind in _PLAIN if isinstance(value, kind))
            self._say(f"{plain.__qualname__} {plain.__repr__(value)}")
        # State besides their items.
        for name in ("maxlen", "default_factory"):
            if isinstance(value, deque | defaultdict) and hasattr(value, name):
                self.add(f"{place}.{name}", getattr(value, name))

    def _digest_of(self, place: str, value: Any) -> str:
        """The hash of a single value, for collections without order."""
        alone = OutputIdentity(self._who, self._identity)
        alone._seen, alone._classes = dict(self._seen), set(self._classes)
        alone.add(place, value)
        return alone.hexdigest()

    def _add_module(self, place: str, module: nn.Module) -> None:
        if self._switched is None:
            self._switched = {id(part) for part in module.modules()}
            for name, hooks in sorted(vars(nn.modules.module).items()):
                if name.startswith("_global_forward_"):
                    self._add_hooks(name, hooks)
        elif id(module) not in self._switched:
            # A module held elsewhere doesn't follow eval().
            self._say(f"training {module.training}")
        self._add_class(place, type(module))
        own = {name: value for name, value in vars(module).items() if name not in _OF_MODULES}
        if _is_compiled(module):
            own = {name: value for name, value in own.items() if _replaces_forward(module, name, value)}
        self._add_fields(place, own)
        for name, with_keywords in zip(_HOOKS, _WITH_KEYWORDS, strict=True):
            self._add_hooks(f"{place}.{name}", vars(module)[name], vars(module)[with_keywords])
        for kind in ("_parameters", "_buffers", "_modules"):
            # In order, because the forward pass of a container depends on it.
            self._add_fields(place, vars(module)[kind], in_order=True)

    def _add_hooks(self, place: str, hooks: Mapping[int, Any], with_keywords: Mapping[int, bool] | None = None) -> None:
        counted = {number: hook for number, hook in hooks.items() if not is_tap(hook)}
        self._say(f"{len(counted)} hooks")
        for number, hook in counted.items():
            self._say(f"keywords {number in (with_keywords or {})}")
            self.add(place, hook)

    def _add_class(self, place: str, kind: type) -> None:
        bases, metaclasses = kind.__mro__[:-1], inspect.getmro(type(kind))[:-2]
        self._say(f"{len(bases)} bases and {len(metaclasses)} metaclasses")
        for base in (*bases, *metaclasses):
            self._say(f"class {base.__module__}.{base.__qualname__}")
            if is_installed(base.__module__):
                self._say(version_of(base.__module__))
            elif base not in self._classes:
                self._classes.add(base)
                counts = {
                    k: v for k, v in vars(base).items() if k not in _OF_CLASSES and not isinstance(v, _DESCRIPTORS)
                }
                self._add_fields(place, counts)

    def _add_function(self, place: str, function: types.FunctionType) -> None:
        # Not its __module__: a decorator copies that of the decorated function.
        module = function.__globals__.get("__name__", "__main__")
        self._say(f"function {module}.{function.__qualname__}")
        names, closure = names_in(function.__code__), _closure(function)
        self._say(f"closure of {len(closure)}")
        for name, content in closure.items():
            self._say(name)
            self._add_named(f"{place} ({name} in {function.__name__})", content, names)
        if is_installed(module):
            self._say(version_of(module))
            return
        self._add_all(f"{place} ({function.__name__})", function.__defaults__, function.__kwdefaults__)
        # A decorator copies the attributes of the decorated function, which is in its closure.
        wrapped = getattr(function, "__wrapped__", None)
        own = {name: value for name, value in vars(function).items() if getattr(wrapped, name, None) is not value}
        self._add_fields(f"{place} ({function.__name__})", own)
        self._add_code(place, function.__code__)
        if hidden := reads_that_hide(function.__code__, {**vars(builtins), **function.__globals__, **closure}):
            self._unseen(f"{place} ({function.__name__})", function, f" by {hidden[0]}")
        global_names = sorted(names & function.__globals__.keys())
        self._say(f"{len(global_names)} globals")
        for name in global_names:
            self._say(name)
            self._add_named(f"{name} of {module}", function.__globals__[name], names)
        imported = imports_in(function.__code__, function.__globals__.get("__package__"))
        self._say(f"{len(imported)} imports")
        for part in imported:
            self._add_named(f"{part.__name__} of {module}", part, names)

    def _add_named(self, place: str, value: Any, names: set[str]) -> None:
        """A value that code names; for modules of the user's project, also the values that code names in them."""
        if not isinstance(value, types.ModuleType) or is_installed(value.__name__):
            self.add(place, value)
            return
        self._say(f"module {value.__name__}")
        if (value.__name__, *sorted(names)) not in self._named:
            self._named.add((value.__name__, *sorted(names)))
            named = sorted(names & vars(value).keys())
            self._say(f"{len(named)} names")
            for name in named:
                self._say(name)
                self._add_named(f"{value.__name__}.{name}", vars(value)[name], names)

    def _add_code(self, place: str, code: types.CodeType) -> None:
        self._say(f"code {platform.python_version_tuple()[:2]} {code.co_names} {code.co_varnames} {code.co_flags}")
        self._say(f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount} {code.co_cellvars}")
        self._say_bytes(code.co_code)
        self._say_bytes(code.co_exceptiontable)
        self.add(place, list(code.co_consts))

    def _add_instance(self, place: str, value: Any) -> None:
        if not _is_written_in_python(type(value)):
            self._unseen(place, value)
            return
        self._add_class(place, type(value))
        self._add_state(place, value)

    def _add_subclass(self, place: str, value: Any) -> None:
        """The additional state of an instance of a subclass of a built-in class or an array."""
        self._add_class(place, type(value))
        self._add_state(place, value)

    def _add_state(self, place: str, value: Any) -> None:
        slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
        state = {**{name: getattr(value, name) for name in slots}, **getattr(value, "__dict__", {})}
        # Torch's compiler leaves notes on tensors.
        self._add_fields(place, {name: value for name, value in state.items() if not name.startswith("_dynamo")})

    def _unseen(self, place: str, value: Any, how: str = "") -> None:
        if self._identity is None:
            raise ValueError(
                f"{self._who}: the key of the cache can't see what {place}, a {type(value).__name__}, holds{how}; give "
                "identity=, a text that you change whenever that changes."
            )
        self._say(f"unseen {type(value).__module__}.{type(value).__qualname__}")

    def _add_fields(self, place: str, fields: Mapping[str, Any], in_order: bool = False) -> None:
        self._say(f"{len(fields)} fields")
        for name, value in fields.items() if in_order else sorted(fields.items(), key=lambda field: field[0]):
            self._say(name)
            self.add(f"{place}.{name}", value)

    def _add_all(self, place: str, *values: Any) -> None:
        for value in values:
            self.add(place, value)

    def _say(self, text: str) -> None:
        self._say_bytes(text.encode())

    def _say_bytes(self, content: bytes) -> None:
        # The length first, so that two parts never hash like one.
        self._hash.update(b"%d " % len(content) + content)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor's elements, in order.

    Example:
        >>> tensor_bytes(torch.tensor([1, 2], dtype=torch.uint8))
        b'\\x01\\x02'
    """
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.flatten().view(torch.uint8).numpy().tobytes()


def _is_compiled(value: Any) -> bool:
    return isinstance(value, nn.Module) and "_orig_mod" in vars(value).get("_modules", ())


def _without_compiler(value: Any) -> Any:
    """The module that a compiled one calls, unless the compiled one does more."""
    while _is_compiled(value):
        own = vars(value)
        hooks = any(not is_tap(hook) for name in _HOOKS for hook in own[name].values())
        if hooks or any(_replaces_forward(value, *field) for field in own.items()):
            break
        value = own["_modules"]["_orig_mod"]
    return value


def _replaces_forward(compiled: nn.Module, name: str, value: Any) -> bool:
    """Whether an attribute of a compiled module is a forward pass that the compiler did not set."""
    by_compiler = getattr(value, "__self__", None) is compiled or hasattr(value, "_torchdynamo_orig_callable")
    return name == "forward" and not by_compiler


def _closure(function: types.FunctionType) -> dict[str, Any]:
    contents = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        # An empty cell has no content.
        with contextlib.suppress(ValueError):
            contents[name] = cell.cell_contents
    return contents


def _wrapped(value: Any) -> tuple[Any, ...] | None:
    """The function that an opaque or caching object calls."""
    if isinstance(value, property):
        return value.fget, value.fset
    if isinstance(value, staticmethod | classmethod):
        return (value.__func__,)
    if isinstance(value, functools.cached_property):
        return (value.func,)
    if isinstance(value, torch.autocast):  # its other attributes are the state on entry
        return value.device, value.fast_dtype, value._enabled
    if isinstance(value, functools.singledispatchmethod):
        return (value.dispatcher,)
    own = getattr(value, "__dict__", None) or {}
    if "_torchdynamo_orig_callable" in own:
        return (own["_torchdynamo_orig_callable"],)
    if isinstance(value, functools._lru_cache_wrapper):
        return (own["__wrapped__"],)
    if isinstance(value, types.FunctionType) and value.__globals__ is vars(functools) and "registry" in own:
        return (own["registry"],)
    return None


def _slots(kind: type) -> list[str]:
    named = vars(kind).get("__slots__", ())
    names = [named] if isinstance(named, str) else list(named)
    # Python's name mangling of private slots.
    own = kind.__name__.lstrip("_")
    return [f"_{own}{name}" if name.startswith("__") and not name.endswith("__") else name for name in names]


def _is_written_in_python(kind: type) -> bool:
    """Whether an object's whole state is in its attributes: none of its classes is written in C."""
    return all(base is object or "__dict__" in dir(base) or "__slots__" in vars(base) for base in kind.__mro__)
