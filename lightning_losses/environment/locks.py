"""Locks between processes, which the system lets go of however a process ends."""

import errno
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# What a file system without locks answers.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL)


@contextmanager
def locked(path: Path, patience: float = math.inf) -> Iterator[bool]:
    """Hold a lock while within, after waiting for who holds it; the file is gone after it.

    Whether it is held: where the system or the file system has no locks, nobody is kept out, and what is written within
    needs a name of its own.

    Args:
        path: the lock's file; its folder is made. A symbolic link there is not followed.
        patience: seconds to wait.

    Raises:
        BlockingIOError: another process still holds it.
        OSError: the folder can't be written to; it names the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with locked(Path(folder) / ".lock") as held:
        ...         print(held, os.listdir(folder))
        ...     os.listdir(folder)
        True ['.lock']
        []
    """
    until = time.monotonic() + patience
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = _open(path)
        try:
            held = take_lock(descriptor, until - time.monotonic(), path)
            if held and not is_at(descriptor, path):
                # The one before has removed the file that was waited for.
                continue
            try:
                yield held
            finally:
                # Windows keeps a file that another process has open.
                with suppress(OSError):
                    path.unlink()
            return
        finally:
            os.close(descriptor)


def take_lock(descriptor: int, patience: float, path: Path) -> bool:
    """Lock an open file until it is closed by this process and by those that it was passed to.

    Args:
        descriptor: of the file.
        patience: seconds to wait.
        path: the file, for the error.

    Returns:
        False where the file system has no locks.

    Raises:
        BlockingIOError: another process still holds it.
    """
    until = time.monotonic() + patience
    while fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                raise BlockingIOError(errno.EWOULDBLOCK, "another process holds this lock", str(path)) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise
        time.sleep(0.05)
    return False


def _open(path: Path) -> int:
    follow = getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | follow, 0o666)
    except PermissionError as refused:
        # Another user's, who holds it now: to wait for it, reading is enough.
        try:
            return os.open(path, os.O_RDONLY | follow)
        except FileNotFoundError:
            # That user is done, in a folder where this one can make no file.
            raise refused from None


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of this name: who had it before may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
