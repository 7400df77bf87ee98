"""Trained networks, kept under a hash of their configuration, code and data."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from lightning_losses.environment.atomic_files import refusals_of
from lightning_losses.environment.file_digests import file_digest
from lightning_losses.environment.locks import locked
from lightning_losses.environment.writable_folder import check_writable

WEIGHTS, RECORD = "weights.safetensors", "record.json"


class KeptNetworks:
    """A folder of trained networks, one sub-folder each: weights as safetensors, and a record as JSON.

    A network is found by its identity, the plain values that determine the result of its training. The record holds the
    identity, the weights' hash and its own hash. All are compared on reading: a folder that is damaged or belongs to
    another network is not used.

    Args:
        folder: where they are kept; made when the first one comes.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kept = KeptNetworks(folder)
        ...     kept.save({"seed": 0}, nn.Linear(2, 2), {"seconds": 1.5})
        ...     kept.load({"seed": 0}, nn.Linear(2, 2)), kept.load({"seed": 1}, nn.Linear(2, 2))
        ({'seconds': 1.5}, None)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def place(self, identity: dict[str, Any]) -> Path:
        """The sub-folder of the network that this identity makes."""
        return self.folder / hashlib.sha256(_canonical(identity).encode()).hexdigest()[:16]

    def check(self, identity: dict[str, Any]) -> None:
        """Raise ``OSError`` where a network that is about to be trained could not be kept; it names the file."""
        check_writable(self.folder)
        lock = self._lock(identity)
        if lock.is_symlink() or lock.is_dir():
            raise OSError(errno.EEXIST, "a link or a folder is in the way of a lock; remove it", str(lock))

    def load(self, identity: dict[str, Any], network: nn.Module) -> dict[str, Any] | None:
        """Fill the network with the kept weights; the values kept beside them, or None if there is no good one."""
        values = self._values(identity)
        try:
            if values is not None:
                load_model(network, self.place(identity) / WEIGHTS)
        except (OSError, ValueError, RuntimeError, SafetensorError):
            return None
        return values

    def save(self, identity: dict[str, Any], network: nn.Module, values: dict[str, Any]) -> None:
        """Keep a network; all of its files become visible at once. A complete network that is already kept stays."""
        place = self.place(identity)
        with refusals_of(self.folder), locked(self._lock(identity)):
            if self._values(identity) is not None:
                return
            # As any new folder, so that it can be read by whom the umask says.
            partial = self.folder / f".partial.{secrets.token_hex(8)}"
            partial.mkdir()
            try:
                save_model(network, str(partial / WEIGHTS))
                record = {"identity": identity, "sha256": file_digest(partial / WEIGHTS), "values": values}
                record["record_sha256"] = _digest(record)
                (partial / RECORD).write_text(json.dumps(record, indent=1, allow_nan=False))
                # safetensors makes files that nobody else can read.
                shutil.copymode(partial / RECORD, partial / WEIGHTS)
                try:
                    self._publish(partial, place)
                except OSError:
                    # Where there are no locks, another process may have kept it just now.
                    if self._values(identity) is None:
                        raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def _values(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """The values kept beside a network, if all of it is whole."""
        place = self.place(identity)
        try:
            record = json.loads((place / RECORD).read_text())
            if _canonical(record["identity"]) != _canonical(identity):
                return None
            if record.pop("record_sha256") != _digest(record) or record["sha256"] != file_digest(place / WEIGHTS):
                return None
            values: dict[str, Any] = record["values"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return values

    def _lock(self, identity: dict[str, Any]) -> Path:
        place = self.place(identity)
        return place.with_name(f".{place.name}.lock")

    def _publish(self, partial: Path, place: Path) -> None:
        if os.path.lexists(place):
            # A damaged one, or a file or a link in its place, which is not followed.
            damaged = Path(tempfile.mkdtemp(dir=self.folder, prefix=".replaced."))
            os.replace(place, damaged / place.name)
            shutil.rmtree(damaged, ignore_errors=True)
        os.rename(partial, place)


def _canonical(identity: dict[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True, allow_nan=False)


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(record).encode()).hexdigest()
