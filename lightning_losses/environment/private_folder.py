"""Folders that only this user may write to, for compiled code."""

import errno
import os
import stat
from pathlib import Path

# Not Windows, where what is in a user's profile is the user's.
_HAS_OWNERS = hasattr(os, "getuid")


def private_folder(folder: Path) -> Path:
    """Make a folder for this user alone, or make sure that it is one.

    Raises:
        OSError: it is a link or no folder, it is another user's, or others may write to it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as home:
        ...     oct(private_folder(Path(home) / "own").stat().st_mode & 0o777)
        '0o700'
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not (is_users(folder) and folder.is_dir()) or (_HAS_OWNERS and folder.stat().st_mode & 0o022):
            reason = "it is no folder, it is a link, or others than this user may write there; remove it, or chmod 700"
            raise PermissionError(errno.EPERM, reason, str(folder)) from None
    return folder


def is_users(path: Path) -> bool:
    """Whether a file or a folder is there, is this user's, and is no link."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return not stat.S_ISLNK(status.st_mode) and (not _HAS_OWNERS or status.st_uid == os.getuid())
