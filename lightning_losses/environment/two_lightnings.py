"""Lightning has two names, `lightning.pytorch` and `pytorch_lightning`, whose classes are not each other's."""

from typing import Any


def is_named(value: Any, name: str) -> bool:
    """Whether a class of this name is among those of a value, whichever Lightning it is of.

    Example:
        >>> is_named(True, "int"), is_named("one", "int")
        (True, False)
    """
    return any(kind.__name__ == name for kind in type(value).__mro__)


def refuse_other_lightning(who: str, trainer: Any) -> None:
    """Raise ``ValueError`` for a trainer of `pytorch_lightning`: its checkpoints and signals go by its own classes."""
    if not any(kind.__module__.startswith("lightning.") for kind in type(trainer).__mro__):
        raise ValueError(
            f"{who}: the trainer is one of {type(trainer).__module__.partition('.')[0]}; write `import lightning as L` "
            "and L.Trainer in your project."
        )
