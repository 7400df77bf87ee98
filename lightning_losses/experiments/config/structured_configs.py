"""Configurations typed by their targets' signatures, so that a wrong value or name fails during composition.

Nothing is registered by hand: a new loss is typed automatically.
"""

import enum
import inspect
import types
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from functools import cache
from typing import Any, List, Literal, Optional, Union, get_args, get_origin  # noqa: UP035

from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import MISSING, OmegaConf

from lightning_losses.experiments.config.check_config import argument_types

_PLAIN = (bool, int, float, str)


def structured(config: Any) -> Any:
    """A configuration whose nodes with a ``_target_`` have the fields and the types of that target's signature.

    Arguments that the configuration leaves out appear with their defaults. Targets that can't be imported, or that
    take any keyword, stay as they are.

    Args:
        config: as read from a file: not composed, with interpolations.

    Example:
        >>> from omegaconf import OmegaConf
        >>> loss = structured(OmegaConf.create({"_target_": "lightning_losses.losses.ZLoss", "coefficient": 4}))
        >>> loss.coefficient, loss.reduction == "mean"
        (4.0, True)
        >>> loss.coeficient = 2
        Traceback (most recent call last):
        omegaconf.errors.ConfigAttributeError: Key 'coeficient' not in 'ZLoss(coefficient, ignore_index, reduction)'
            full_key: coeficient
            object_type=ZLoss(coefficient, ignore_index, reduction)
    """
    plain = OmegaConf.to_container(config, resolve=False)
    return OmegaConf.create(_typed(plain))


def _typed(node: Any) -> Any:
    if isinstance(node, list):
        return [_typed(item) for item in node]
    if not isinstance(node, dict):
        return node
    content = {name: _typed(value) for name, value in node.items()}
    # A defaults list belongs to a file, not to what it builds; what is given by position has no names to check.
    if "_target_" not in content or "defaults" in content or "_args_" in content:
        return content
    # Hydra's own names, and arguments that are null as long as the application has no such data.
    marked = tuple(
        name
        for name, value in content.items()
        if (str(name).startswith("_") and name != "_target_") or str(value).startswith("${oc.select:")
    )
    schema = _schema(str(content["_target_"]), marked)
    if schema is None:
        return content
    built = OmegaConf.structured(schema)
    for name, value in content.items():
        built[name] = value
    return built


@cache
def _schema(target: str, marked: tuple[str, ...] = ()) -> type | None:
    """A dataclass with the arguments of a target, named by its signature: Hydra's errors then name the choices.

    Args:
        target: a dotted name.
        marked: further fields, which begin with an underscore, and arguments that may be null.
    """
    try:
        built = get_object(target)
        parameters = list(inspect.signature(built).parameters.values())
    except (ImportError, ValueError, TypeError, InstantiationException):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    annotations = argument_types(built)
    fields: list[tuple[str, Any, Any]] = [("_target_", str, field(default=target))]
    fields += [(name, Any, field(default=MISSING)) for name in marked if name.startswith("_")]
    for parameter in parameters:
        if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            kind, default = _field(annotations.get(parameter.name, Any), parameter.default)
            fields.append((parameter.name, Optional[kind] if parameter.name in marked else kind, default))  # noqa: UP045
    names = ", ".join(name for name, _, _ in fields if not name.startswith("_"))
    schema = make_dataclass(f"{target.rpartition('.')[2]}({names})", fields)
    schema.__module__, schema.__qualname__ = __name__, "|".join([target.replace(".", "/"), *marked])
    return schema


def __getattr__(name: str) -> Any:
    # A pickled configuration, as a launcher sends to other machines, finds its types here, made anew.
    first, *rest = name.split("|")
    made = (
        _choices(tuple(rest))
        if first == ""
        else _schema(first.replace("/", "."), tuple(rest))
        if "/" in first
        else None
    )
    if made is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return made


def _field(annotation: Any, default: Any) -> tuple[Any, Any]:
    """The type and the default of one argument, as far as a configuration can express them."""
    if default is inspect.Parameter.empty:
        return _type(annotation), field(default=MISSING)
    if isinstance(default, (list, tuple)):
        return _type(annotation), field(default_factory=lambda: list(default))
    if default is None:
        return Optional[_type(annotation)], field(default=None)  # noqa: UP045
    if not isinstance(default, _PLAIN):
        return Any, field(default=MISSING)
    kind = _type(annotation)
    return kind, field(default=kind(str(default)) if isinstance(kind, type) and issubclass(kind, Choice) else default)


def _type(annotation: Any) -> Any:
    """The nearest type that a configuration can check; `Any` where there is none."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _PLAIN:
        return annotation
    if origin is Literal and all(isinstance(choice, str) for choice in arguments):
        return _choices(arguments)
    if origin in (list, Sequence) and arguments[0] in _PLAIN:
        return List[arguments[0]]  # type: ignore[valid-type] # noqa: UP006
    if origin in (Union, types.UnionType):
        kinds = [_type(argument) for argument in arguments if argument is not type(None)]
        optional = len(kinds) < len(arguments)
        if len(kinds) == 1:
            return Optional[kinds[0]] if optional else kinds[0]  # noqa: UP045
        if all(kind in _PLAIN for kind in kinds):
            return Union[tuple([*kinds, type(None)] if optional else kinds)]  # noqa: UP007
    return Any


class Choice(enum.StrEnum):
    """One of a few texts: for OmegaConf an enumeration, whose errors list the choices; for the loss a plain text."""

    def __repr__(self) -> str:
        return repr(self.value)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return str, (str(self.value),)


@cache
def _choices(values: tuple[str, ...]) -> type[Choice]:
    make: Any = Choice
    made: type[Choice] = make("Choice", [(value, value) for value in values])
    made.__qualname__ = "|".join(["", *values])
    return made
