"""Files that are replaced whole or not at all: the one before stays until all of the new one is on disk."""

import contextlib
import json
import math
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A temporary path that replaces the file once all of it is on disk; a failure leaves the file unchanged.

    It is made new, so that a link which another user has put there is not followed, with the mode of any new file.

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
    with refusals_of(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = _make_new(partial)
            yield partial
            # Some writers put a file of their own there, which nobody else may read.
            partial.chmod(mode)
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(partial, path)
            _flush_folder(path.parent)
        except BaseException:
            # What is half written would only take space from the next attempt.
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextmanager
def refusals_of(path: Path) -> Iterator[None]:
    """Within this context a refusal of the system is an ``OSError`` that names the path, whichever library met it.

    Ctrl-C stays what it is where a library's writer, in closing, makes an error of its own of it, as torch's does.

    Example:
        >>> with refusals_of(Path("runs/file")):
        ...     raise RuntimeError("while serializing: No space left on device (os error 28)")
        Traceback (most recent call last):
        OSError: [Errno 28] No space left on device: 'runs/file'
    """
    # A write that follows Ctrl-C, such as that of a last checkpoint, is refused like any other.
    before = sys.exc_info()[1]
    try:
        yield
    except Exception as error:
        stop = error.__context__
        if stop is not None and stop is not before and not isinstance(stop, Exception):
            raise stop from None
        number = refused_number(error, before)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def append_line(path: Path, line: str, *, flush: bool = False) -> None:
    """Add a line to a file, which is made if it isn't there; if that fails, the file stays as it was.

    A line before it that a killed process left unfinished is removed.

    Args:
        path: the file; its folder is made.
        line: without its end.
        flush: whether the line is on disk, and not in the system's memory alone, when this returns.

    Raises:
        OSError: the disk is full, or the file can't be written to; it names the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "lines").write_text("first\\nsec")
        ...     append_line(Path(folder) / "lines", "second")
        ...     (Path(folder) / "lines").read_text()
        'first\\nsecond\\n'
    """
    with refusals_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as stream:
            whole = _whole_lines(stream)
            stream.truncate(whole)
            content = f"{line}\n".encode()
            try:
                # A disk that is nearly full takes a part.
                while content:
                    content = content[stream.write(content) :]
                if flush:
                    os.fsync(stream.fileno())
            except BaseException:
                stream.truncate(whole)
                raise


def write_text(path: Path, text: str, *, shared: bool = False) -> None:
    """Replace a file by a text."""
    with replacing(path, shared=shared) as partial:
        partial.write_text(text)


def write_json(path: Path, content: Any, *, shared: bool = False) -> None:
    """Replace a file by plain values as JSON; numbers that are not finite become null."""
    write_text(path, json.dumps(finite(content), indent=1, allow_nan=False) + "\n", shared=shared)


def write_all(texts: Mapping[Path, str]) -> None:
    """Write texts; if one can't be written, the files before it are as they were."""
    # Bytes, in which the ends of lines are kept.
    before: dict[Path, bytes | None] = {}
    try:
        for path, text in texts.items():
            before[path] = path.read_bytes() if path.exists() else None
            write_text(path, text)
    except OSError:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            elif path.read_bytes() != content:
                with replacing(path) as partial:
                    partial.write_bytes(content)
        raise


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


def refused_number(error: BaseException | None, before: BaseException | None = None) -> int | None:
    """The number of the system's error behind a library's: torch puts one of its own on top, safetensors says it.

    Args:
        error: what was raised; an error that it hides by ``from None`` is not behind it.
        before: what was being handled when the work began, which is not behind it either.

    Example:
        >>> refused_number(RuntimeError("IoError(Os { code: 28, kind: StorageFull })"))  # of safetensors before 0.6
        28
    """
    while error is not None and error is not before and not isinstance(error, OSError):
        if said := re.search(r"(?:\(os error |Os \{ code: )(\d+)", str(error)):
            return int(said[1])
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error.errno if isinstance(error, OSError) and error is not before else None


def _make_new(path: Path) -> int:
    """Make an empty file, new in its folder, so that no link there is followed; the mode that the umask gives it."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _whole_lines(stream: FileIO) -> int:
    """The bytes of a file up to the end of its last whole line."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(size - 1, 0))
    if stream.read() in (b"", b"\n"):
        return size
    stream.seek(0)
    return stream.read().rfind(b"\n") + 1


def _flush_folder(folder: Path) -> None:
    # The new name itself is on disk only when the folder is.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
