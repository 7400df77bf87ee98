"""The numbers of finished runs, each in a small file, kept under hashes of their settings and code."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from lightning_losses.environment.atomic_files import write_json


class KeptResult(NamedTuple):
    """The numbers of a run, None for one that was not finite, and whether this version of the code made them."""

    values: dict[str, float | None]
    current: bool


class KeptResults:
    """A folder of results: ``<hash of the settings>/<hash of the code>.json``, each written whole or not at all.

    Args:
        folder: where they are kept; made when the first one comes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kept = KeptResults(folder)
        ...     kept.save({"seed": 0}, "a1", {"accuracy": 0.9})
        ...     kept.load({"seed": 0}, "a1"), kept.load({"seed": 0}, "b2"), kept.load({"seed": 0}, "b2", stale=True)
        (KeptResult(values={'accuracy': 0.9}, current=True), None, KeptResult(values={'accuracy': 0.9}, current=False))
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def place(self, settings: dict[str, Any], source: str) -> Path:
        """The file of the run with these settings, made by the code of this hash."""
        return self.folder / hashlib.sha256(_canonical(settings).encode()).hexdigest()[:20] / f"{source}.json"

    def load(self, settings: dict[str, Any], source: str, *, stale: bool = False) -> KeptResult | None:
        """The result of these settings and this code; None if there is none, or a damaged file.

        Args:
            settings: plain values that, with the code, determine the result.
            source: a hash of the code.
            stale: if this version of the code has no result, take the newest one of another version.
        """
        place = self.place(settings, source)
        places = [place]
        if stale:
            places += sorted(place.parent.glob("*.json"), key=lambda other: other.stat().st_mtime, reverse=True)
        for path in places:
            try:
                record = json.loads(path.read_text())
                if _canonical(record["settings"]) == _canonical(settings):
                    return KeptResult(record["values"], path == place)
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def save(self, settings: dict[str, Any], source: str, values: dict[str, float | None]) -> None:
        """Keep a result."""
        content = {"values": values, "source": source, "settings": settings}
        write_json(self.place(settings, source), content, shared=True)


def _canonical(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, allow_nan=False)
