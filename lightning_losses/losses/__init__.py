"""Every loss by its class name and its function's name; a file added to a family is found by itself.

Losses that other distributions register are found by their class names too.
"""

import importlib
import pkgutil
from functools import cache
from types import FunctionType
from typing import Any

from lightning_losses.losses.base import Loss


@cache
def index() -> dict[str, Any]:
    """Loss classes and loss functions by name, from the files of every family."""
    found: dict[str, Any] = {"Loss": Loss}
    for info in pkgutil.walk_packages(__path__, f"{__name__}."):
        # What stands beside the families is what losses are made of.
        if info.name.count(".") == __name__.count(".") + 1 and not info.ispkg:
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == info.name and not name.startswith("_")
            is_loss = isinstance(value, type) and issubclass(value, Loss)
            if own and (is_loss or (isinstance(value, FunctionType) and name.endswith("_loss"))):
                if name in found and found[name] is not value:
                    raise ImportError(f"{info.name} defines {name}, which {found[name].__module__} has already.")
                found[name] = value
    return found


def loss_classes() -> list[type[Loss]]:
    """Every loss that the library offers, sorted by id."""
    classes = {value for value in index().values() if isinstance(value, type) and value is not Loss}
    return sorted(classes, key=lambda loss: (loss.__module__, loss.__name__))


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        if name in index():
            return index()[name]
        from lightning_losses.losses.registered import registered_losses

        for loss in registered_losses().values():
            if loss.__name__ == name:
                return loss
    raise AttributeError(f"module {__name__!r} has no loss {name!r}; it has {', '.join(sorted(index()))}.")


def __dir__() -> list[str]:
    return sorted([*globals(), *index()])
