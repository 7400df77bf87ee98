"""Losses that other distributions register, by entry points of the group `lightning_losses.losses`.

In the other distribution's ``pyproject.toml``::

    [project.entry-points."lightning_losses.losses"]
    my_loss = "my_package.my_loss:MyLoss"
"""

import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from lightning_losses.losses.base import Loss

GROUP = "lightning_losses.losses"


@cache
def registered_losses() -> dict[str, type[Loss]]:
    """The registered subclasses of `Loss`, by the name that their entry point gives them.

    The first call looks for them; importing the package never does. An entry that can't be loaded, is no `Loss` or has
    the name of another loss is left out with a warning that names it.

    Example:
        >>> isinstance(registered_losses(), dict)
        True
    """
    found: dict[str, type[Loss]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        try:
            loss = entry.load()
        # Importing foreign code may raise anything; the other entries must still load.
        except Exception as error:
            _warn(entry, f"can't be loaded ({type(error).__name__}: {error})")
            continue
        if not (isinstance(loss, type) and issubclass(loss, Loss)):
            _warn(entry, f"leads to {loss!r}; register a subclass of lightning_losses.losses.Loss")
        elif found.get(entry.name, loss) is not loss:
            _warn(entry, f"has the name of {found[entry.name].__module__}.{found[entry.name].__name__}")
        else:
            found[entry.name] = loss
    return found


def _warn(entry: EntryPoint, what: str) -> None:
    distribution = f" of {entry.dist.name}" if entry.dist is not None else ""
    warnings.warn(
        f"lightning_losses: the entry point '{entry.name} = {entry.value}'{distribution} {what}; it is left out.",
        stacklevel=3,
    )
