"""Finds out before the work, not after it, that its results could not be written."""

import errno
import os
import tempfile
from pathlib import Path


def check_writable(folder: Path) -> None:
    """Write into a folder, or into the one that it would be made in, and leave nothing there.

    Raises:
        OSError: that can't be done; it names the folder.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     check_writable(Path(folder) / "new")
        ...     list(Path(folder).iterdir())
        []
    """
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    try:
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=there) as probe:
            # What a run writes before it does anything.
            probe.write(bytes(2**16))
            probe.flush()
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or errno.EIO), str(there)) from None
