"""Errors as a user reads them: one message, and an exit code."""

import errno
import re
import sys
from typing import NoReturn

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from lightning_losses.experiments.config.instantiate import ConfigError

# What a user's settings can cause, with Lightning's own, known by its name, since its import takes seconds. Anything
# else is a fault of the program and keeps its trace.
_OF_SETTINGS = (ValueError, HydraException, OmegaConfBaseException, ModuleNotFoundError)
_OF_LIGHTNING = "MisconfigurationException"
# Torch's, known by its name too: one of the processes that this one forked is gone.
_KILLED = "ProcessExitedException"
# What torch prints of a network: a line for each layer, where a message has room for its name.
_NETWORK = re.compile(r"\(\n(?:[ \t]+[^\n]*\n)+\)")
# What a disk or a folder refuses; any other OSError is a fault of the program.
_REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.ELOOP,
    ),
)


def refused(error: BaseException) -> bool:
    """Whether a disk or a folder caused the error."""
    return isinstance(error, OSError) and error.errno in _REFUSALS


def killed(error: BaseException) -> bool:
    """Whether one of several processes was ended from outside, as the system does where memory runs out."""
    return type(error).__name__ == _KILLED


def expected(error: BaseException) -> bool:
    """Whether settings or the machine can cause it, not a fault of the program."""
    return refused(error) if isinstance(error, OSError) else killed(error) or _of_settings(error)


def fail(error: BaseException, advice: str = "") -> NoReturn:
    """Tell of an error, and leave with code 2."""
    hint = (
        ""
        if isinstance(error, ConfigError) or refused(error) or killed(error)
        else "\n(debug=true shows where it was raised.)"
    )
    tell(f"Error: {message(error)}{hint}{advice}")
    sys.exit(2)


def message(error: BaseException) -> str:
    """An error as the user sees it: the given value, and values that work."""
    if isinstance(error, OSError) and refused(error):
        return f"{error.filename or 'a file'} can't be written: {error.strerror}."
    if killed(error):
        return f"{error}; if it was for want of memory, give a smaller data.batch_size, or fewer trainer.devices."
    where = ""
    if isinstance(error, InstantiationException):
        where = str(error).rpartition("full_key: ")[2].strip() + ": " if "full_key: " in str(error) else ""
        while error.__cause__ is not None:
            error = error.__cause__
    lines = _NETWORK.sub("(...)", str(error)).strip().splitlines() or ["no reason was given"]
    if isinstance(error, OmegaConfBaseException):
        # The lines below are about OmegaConf's own objects.
        lines = lines[:1]
    elif not _of_settings(error):
        # Out of a library: its first line, with what kind of error it is.
        lines = [f"these settings can't be run ({type(error).__name__}: {lines[0]})"]
    return where + "\n".join(lines)


def _of_settings(error: BaseException) -> bool:
    return isinstance(error, _OF_SETTINGS) or any(kind.__name__ == _OF_LIGHTNING for kind in type(error).__mro__)


def tell(text: str) -> None:
    """Print on stderr."""
    # No highlighting, no wrapping: the text holds names and commands to copy.
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(text)
