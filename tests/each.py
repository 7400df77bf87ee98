"""Values that one test tries one after the other: a thousand tests cost seconds before they begin."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any


def each(name: str, values: Sequence[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator as `pytest.mark.parametrize`, whose values are tried in one test; a failure names its value."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(test)
        assert name in signature.parameters

        @functools.wraps(test)
        def loop(**given: Any) -> None:
            for value in values:
                try:
                    test(**given, **{name: value})
                except BaseException as error:
                    error.add_note(f"{name}={value!r}")
                    raise

        others = [parameter for parameter in signature.parameters.values() if parameter.name != name]
        loop.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return loop

    return decorate
