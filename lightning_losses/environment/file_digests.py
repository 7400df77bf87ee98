"""Digests beside files, by which damage is found before a file is used."""

import hashlib
from pathlib import Path

from lightning_losses.environment.atomic_files import write_text

# A kill between the digest and the file that it is of leaves the file before, whose digest must still be there.
_KEPT = 8


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"file_digest: there is no file {path}.")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_place(path: Path) -> Path:
    """Where a file's digest is kept.

    Example:
        >>> digest_place(Path("last.ckpt")).name
        'last.ckpt.sha256'
    """
    return path.with_name(f"{path.name}.sha256")


def announce(path: Path, partial: Path) -> None:
    """Add the digest of the content that is about to replace a file to the digests of its earlier contents."""
    # A file that came without a digest must pass too, if a kill leaves it there.
    before = (_digests(path) or [file_digest(path)]) if path.is_file() else []
    write_text(digest_place(path), "\n".join([file_digest(partial), *before][:_KEPT]) + "\n")


def check_digest(path: Path) -> None:
    """Raise ``ValueError`` if a file has changed since it was written; a file without a digest passes.

    This finds damage. Who can change the file can change its digest as well.
    """
    if path.is_file() and digest_place(path).is_file() and file_digest(path) not in _digests(path):
        raise ValueError(f"{path} was changed since it was written: {digest_place(path).name} has another digest.")


def _digests(path: Path) -> list[str]:
    place = digest_place(path)
    return place.read_text(errors="replace").split() if place.is_file() else []
