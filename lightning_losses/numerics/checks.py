"""Checks of inputs, and the context in which checks that synchronise with a device run too."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

from torch import Tensor

_debug = False


def debugging() -> bool:
    """Whether the checks that cost a device synchronisation run."""
    return _debug


@contextmanager
def debug(enabled: bool = True) -> Iterator[None]:
    """Within this context, losses also run the checks that cost a device synchronisation.

    Example:
        >>> with debug():
        ...     pass
    """
    global _debug
    before, _debug = _debug, enabled
    try:
        yield
    finally:
        _debug = before


def check_number(
    loss: str,
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> None:
    """Raise ``ValueError`` unless `value` is a finite number with `above` < value, `least` <= value <= `most`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # In a form that a compiler traces of a changing number, too.
    inside = number and abs(value) < math.inf
    inside = inside and (above is None or value > above) and (least is None or value >= least)
    inside = inside and (most is None or value <= most)
    if not inside:
        bounds = [f"above {above:g}"] if above is not None else []
        bounds += [f"at least {least:g}"] if least is not None else []
        bounds += [f"at most {most:g}"] if most is not None else []
        kind = "a finite number" if number and math.isinf(value) else "a number"
        wanted = f"{kind} {' and '.join(bounds)}".rstrip()
        raise ValueError(f"{loss}: {name}={value!r} came; give {wanted}.")


def check_numbers(
    loss: str,
    name: str,
    values: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> None:
    """Raise ``ValueError`` unless `values` is a list of such numbers as `check_number` takes, at least one."""
    numbers = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(numbers, str) or not isinstance(numbers, Sequence) or not numbers:
        raise ValueError(f"{loss}: {name}={values!r} came; give a list of numbers, at least one.")
    for value in numbers:
        check_number(loss, name, value, above=above, least=least, most=most)


def check_temperature(loss: str, temperature: Any) -> None:
    """Raise ``ValueError`` unless `temperature` is a finite number above 0."""
    check_number(loss, "temperature", temperature, above=0, most=1e9)


def check_count(loss: str, name: str, value: Any, zero: str | None = None) -> None:
    """Raise ``ValueError`` unless `value` is a whole number of at least 1, or 0 if that means what `zero` says."""
    if not isinstance(value, int) or isinstance(value, bool) or value < (zero is None):
        besides = "" if zero is None else f", or 0 {zero}"
        raise ValueError(f"{loss}: {name}={value!r} came; give a whole number of at least 1{besides}.")


def check_choice(loss: str, name: str, value: Any, choices: Any) -> None:
    """Raise ``ValueError`` unless `value` is one of `choices` (a ``Literal`` type or a tuple)."""
    # In this order, since torch 2.6 can't compile what asks for a type's arguments.
    allowed = choices if isinstance(choices, tuple) else get_args(choices)
    if value not in allowed:
        raise ValueError(f"{loss}: {name}={value!r} came; choose one of {', '.join(map(repr, allowed))}.")


def check_floating(loss: str, name: str, tensor: Any) -> None:
    """Raise ``ValueError`` unless `tensor` is a floating-point tensor."""
    if isinstance(tensor, Mapping):
        keys = ", ".join(map(repr, tensor))
        raise ValueError(f"{loss}: {name} is a {type(tensor).__name__} with {keys}; give one of the tensors in it.")
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{loss}: {name} is a {type(tensor).__name__}; give a floating-point tensor.")
    if not tensor.is_floating_point():
        wanted = "unnormalised floating-point scores" if name.endswith("logits") else "a floating-point tensor"
        raise ValueError(f"{loss}: {name} has dtype {tensor.dtype}; give {wanted}.")


def check_tensor(loss: str, name: str, given: Any) -> None:
    """Raise ``ValueError`` unless `given` is a tensor."""
    if not isinstance(given, Tensor):
        raise ValueError(f"{loss}: {name} came as a {type(given).__name__}; give a tensor.")


def check_vectors(loss: str, features: Any, teacher_features: Any) -> None:
    """Raise ``ValueError`` unless both are vectors [B, D] of the same samples, of any two dimensions."""
    for name, tensor in (("features", features), ("teacher_features", teacher_features)):
        check_floating(loss, name, tensor)
        if tensor.ndim != 2 or len(tensor) != len(features) or tensor.shape[1] == 0:
            raise ValueError(
                f"{loss}: {name} of shape {list(tensor.shape)} came; give vectors [B, D] with D of at least 1, of the "
                "same samples for both."
            )


def check_embeddings(loss: str, name: str, embeddings: Any) -> None:
    """Raise ``ValueError`` unless `embeddings` are floating-point vectors [B, D]."""
    check_floating(loss, name, embeddings)
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        raise ValueError(
            f"{loss}: {name} of shape {list(embeddings.shape)} came; give vectors [B, D] with D of at least 1."
        )
