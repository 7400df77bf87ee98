"""Where the library keeps results for later runs: one folder, in the user's cache."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$LIGHTNING_LOSSES_CACHE``; else ``lightning_losses`` in ``$XDG_CACHE_HOME``, which is ``~/.cache`` if unset."""
    if own := os.environ.get("LIGHTNING_LOSSES_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lightning_losses"
