"""Settings: the allowed values of each, written once, as the annotation of its field.

A range stands beside the type: ``gamma: Weight = 1.5`` says that γ is a number of at least 0. The constructor refuses
what lies outside; configurations, tests and the catalogue read the same ranges by `settings`.
"""

import math
import types
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Union, dataclass_transform, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Bound:
    """The range of a number.

    Example:
        >>> str(Bound(above=0, most=2)), Bound(above=0).holds(0)
        ('above 0 and at most 2', False)
    """

    above: float | None = None
    least: float | None = None
    most: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a number lies within; NaN lies in no range."""
        return (
            abs(value) < math.inf
            and (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        ends = (("above", self.above), ("at least", self.least), ("at most", self.most), ("below", self.below))
        return " and ".join(
            f"{word} {end if isinstance(end, int) else f'{end:g}'}" for word, end in ends if end is not None
        )

    def wanted(self, value: float) -> str:
        """The allowed numbers, in words.

        Example:
            >>> Bound(least=0).wanted(-1), Bound(least=0).wanted(math.inf), Bound().wanted(math.nan)
            ('a number at least 0', 'a finite number at least 0', 'a finite number')
        """
        return f"{'a number' if math.isfinite(value) else 'a finite number'} {self}".rstrip()


Positive = Annotated[float, Bound(above=0)]
NonNegative = Annotated[float, Bound(least=0)]
Weight = Annotated[float, Bound(least=0)]
Share = Annotated[float, Bound(least=0, most=1)]
# Beyond the largest one, logits divided by it are 0 in float32.
Temperature = Annotated[float, Bound(above=0, most=1e9)]
Count = Annotated[int, Bound(least=1)]
Whole = Annotated[int, Bound(least=0)]
# What torch and numpy take.
Seed = Annotated[int, Bound(least=0, most=2**32 - 1)]


@dataclass(frozen=True)
class Setting:
    """One setting: its name, its allowed values, and its default.

    Attributes:
        kind: float, int, bool, or None where a value of another type is the class's own to check.
        bound: the range of a number.
        choices: the words that it may be; empty where it is no choice.
        optional: whether None is a value too.
        required: whether the constructor asks for it.
    """

    name: str
    kind: type | None
    bound: Bound
    choices: tuple[str, ...]
    optional: bool
    required: bool
    default: Any

    def fits(self, value: Any) -> bool:
        """Whether a value is of the kind, in the range, or among the choices."""
        if value is None and self.optional:
            return True
        if self.choices:
            return isinstance(value, str) and value in self.choices
        if self.kind is None:
            return True
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        return isinstance(value, (int, float) if self.kind is float else int) and self.bound.holds(value)

    def range(self) -> str:
        """The allowed values, in words; empty where every value of its type is allowed.

        Example:
            >>> Setting("skew", float, Bound(least=0, most=1), (), True, False, None).range()
            'at least 0 and at most 1, or None'
        """
        words = ", ".join(map(repr, self.choices)) or str(self.bound)
        return f"{words}, or None" if self.optional and words else words

    def check(self, name: str, value: Any) -> None:
        """Raise ``ValueError``, which begins with a name, unless a value fits."""
        if not self.fits(value):
            raise ValueError(f"{name}: {self.name}={value!r} came; {self.wanted()}.")

    def wanted(self) -> str:
        """What would fit, in words.

        Example:
            >>> Setting("gamma", float, Bound(least=0), (), False, False, 1.5).wanted()
            'give a number at least 0'
        """
        if self.choices:
            return f"choose one of {', '.join(map(repr, self.choices))}"
        if self.kind is bool:
            return "give True or False"
        if self.kind is int:
            return f"give a whole number of {self.bound}" if str(self.bound) else "give a whole number"
        return f"give a number {self.bound}" if str(self.bound) else "give a finite number"


@cache
def settings(kind: Any) -> tuple[Setting, ...]:
    """The settings of a class, in the order of its constructor, by the annotations of its fields.

    Example:
        >>> from lightning_losses.losses import NKD
        >>> [setting.name for setting in settings(NKD)]
        ['gamma', 'temperature', 'ignore_index', 'reduction', 'shared_support']
        >>> settings(NKD)[0].bound
        Bound(above=None, least=0, most=None, below=None)
    """
    hints = get_type_hints(kind, include_extras=True)
    known = kind._fields.values() if issubclass(kind, Declared) else fields(kind)
    declared = [field for field in known if field.init]
    # As the constructor's signature has them: what is given by name alone comes last.
    declared = [field for field in declared if not field.kw_only] + [field for field in declared if field.kw_only]
    return tuple(
        Setting(
            field.name,
            *_allowed(hints[field.name]),
            required=field.default is MISSING and field.default_factory is MISSING,
            default=field.default_factory() if field.default_factory is not MISSING else field.default,
        )
        for field in declared
    )


def check_settings(declared: Any, name: str) -> None:
    """Raise ``ValueError`` for the first setting that its annotation does not allow.

    Args:
        declared: an instance.
        name: what the error begins with.
    """
    kind: type = type(declared)
    for setting in settings(kind):
        setting.check(name, getattr(declared, setting.name))


@dataclass_transform(eq_default=False, field_specifiers=(field,))
class Declared:
    """Base of declared classes: the annotated fields of a subclass are its settings, which are checked.

    It stands before what Lightning derives from. What is no setting is a ``field(init=False)``; checks that concern
    several settings are made in `__post_init__`, after ``super().__post_init__()``. A subclass gives an inherited
    setting another default by a plain assignment.

    Attributes:
        name: what errors begin with.

    Example:
        >>> class Warmth(Declared):
        ...     name = "warmth"
        ...     degrees: Annotated[float, Bound(least=-273.15)] = 20.0
        >>> class Heat(Warmth):
        ...     degrees = 60.0
        >>> Warmth(25.0).degrees, Heat().degrees
        (25.0, 60.0)
        >>> Warmth(-300.0)
        Traceback (most recent call last):
        ValueError: warmth: degrees=-300.0 came; give a number at least -273.15.
    """

    name = ""
    _fields: ClassVar[dict[str, Field[Any]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls).get("__annotations__", {})
        inherited = {
            name: item for base in reversed(cls.__mro__) for name, item in vars(base).get("_fields", {}).items()
        }
        for name, item in inherited.items():
            if name not in own:
                default = vars(cls).get(name, item.default)
                options: dict[str, Any] = {"init": item.init, "kw_only": item.kw_only, "default": default}
                if default is MISSING:
                    options["default_factory"] = item.default_factory
                setattr(cls, name, field(**options))
        cls.__annotations__ = {name: item.type for name, item in inherited.items()} | own
        declared: Any = dataclass(eq=False, repr=False)(cls)
        cls._fields = {item.name: item for item in fields(declared)}
        # A dataclass no longer: to OmegaConf its instances would be configurations.
        del declared.__dataclass_fields__

    def __post_init__(self) -> None:
        super().__init__()
        check_settings(self, self.name)


def _allowed(annotation: Any) -> tuple[type | None, Bound, tuple[str, ...], bool]:
    """Kind, bound, choices, and whether None fits."""
    if get_origin(annotation) in (Union, types.UnionType):
        others = [argument for argument in get_args(annotation) if argument is not type(None)]
        optional = len(others) < len(get_args(annotation))
        kind, bound, choices, _ = _allowed(others[0]) if len(others) == 1 else (None, Bound(), (), False)
        return kind, bound, choices, optional
    if get_origin(annotation) is Literal:
        return None, Bound(), get_args(annotation), False
    bound = next((extra for extra in getattr(annotation, "__metadata__", ()) if isinstance(extra, Bound)), Bound())
    plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return (plain if plain in (float, int, bool) else None), bound, (), False
