"""Selects the parameters of an intervention by patterns of their names."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn


def select_parameters(
    who: str,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> dict[str, nn.Parameter]:
    """Trainable parameters whose name matches a pattern of `include` and none of `exclude`.

    Args:
        who: the name that errors begin with.
        named_parameters: the result of `Module.named_parameters()`.
        include: shell-style patterns, such as ``"network.*.weight"``.
        exclude: patterns of names to leave out.

    Returns:
        Parameters by name, in order.

    Raises:
        ValueError: a pattern that matches no parameter, or nothing left to act on.

    Example:
        >>> list(select_parameters("doc", nn.Linear(2, 2).named_parameters(), exclude=["*bias"]))
        ['weight']
    """
    if isinstance(include, str) or isinstance(exclude, str):
        raise ValueError(f"{who}: include={include!r}, exclude={exclude!r} came; give lists of patterns.")
    parameters = dict(named_parameters)
    for pattern in [*include, *exclude]:
        # "*" may match nothing in a module without parameters; the last check reports that better.
        if pattern != "*" and not any(fnmatchcase(name, pattern) for name in parameters):
            raise ValueError(f"{who}: the pattern {pattern!r} matches none of the parameters {', '.join(parameters)}.")
    chosen = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.requires_grad
        and any(fnmatchcase(name, pattern) for pattern in include)
        and not any(fnmatchcase(name, pattern) for pattern in exclude)
    }
    if not chosen:
        raise ValueError(
            f"{who}: include={list(include)} and exclude={list(exclude)} leave no trainable parameter; "
            "the module's are " + (", ".join(parameters) or "none") + "."
        )
    return chosen
