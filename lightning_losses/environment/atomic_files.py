"""Files that are replaced whole or not at all: the one before stays until all of the new one is on disk."""

import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Where to write what takes a file's name once all of it is on disk; if anything fails, the file stays as it was.

    Args:
        path: the file; its folder is made.
        shared: several processes may write it at once, each a whole one.

    Raises:
        OSError: the disk is full, or the folder can't be written to; it names the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "new" / "file") as partial:
        ...         _ = partial.write_text("content")
        ...     (Path(folder) / "new" / "file").read_text()
        'content'
    """
    # The same name each time, so that what a kill leaves is overwritten, and not added to.
    partial = path.with_name(f".{path.name}{f'.{secrets.token_hex(4)}' if shared else ''}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, path)
        _flush_folder(path.parent)
    except BaseException as error:
        # What is half written would only take space from the next attempt.
        partial.unlink(missing_ok=True)
        cause = _cause(error)
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from None


def write_text(path: Path, text: str, *, shared: bool = False) -> None:
    """Replace a file by a text."""
    with replacing(path, shared=shared) as partial:
        partial.write_text(text)


def write_json(path: Path, content: Any, *, shared: bool = False) -> None:
    """Replace a file by plain values as JSON, where what is not finite is null."""
    write_text(path, json.dumps(finite(content), indent=1, allow_nan=False) + "\n", shared=shared)


def finite(value: Any) -> Any:
    """Plain values as JSON can hold them: it has no NaN and no infinity, which become None.

    Example:
        >>> finite({"loss": [0.5, math.nan]})
        {'loss': [0.5, None]}
    """
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cause(error: BaseException | None) -> OSError | None:
    """The system's error behind torch's: its writer puts one of its own on top."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _flush_folder(folder: Path) -> None:
    # The new name itself is on disk only when the folder is.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
