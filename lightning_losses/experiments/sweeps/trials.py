"""The trials of a sweep, and the journal that preserves them across an interruption."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning_losses.callbacks.records.metrics_file import read_metrics
from lightning_losses.environment.atomic_files import append_line, write_text
from lightning_losses.environment.locks import is_at, take_lock
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.sweeps.sweep_file import Metric

State = Literal["begun", "finished", "stopped", "failed"]
_ENDS = ("finished", "stopped", "failed")


@dataclass
class Trial:
    """One run of a sweep.

    Attributes:
        number: its number, from 0.
        parameters: its parameters, by dotted name.
        folder: its folder.
        shares: each parameter's quantile, if the search learns; else empty.
        state: "begun" until it ends; "stopped" by early termination, or because the sweep reached its target.
        seconds: its duration.
        message: the reason of its failure.
    """

    number: int
    parameters: dict[str, Any]
    folder: Path
    shares: dict[str, float] = field(default_factory=dict)
    state: State = "begun"
    seconds: float = 0.0
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.state != "begun"

    def history(self, metric: str) -> list[float]:
        """The finite values of a metric that it reported, in order."""
        values: list[Any] = [line.get(metric) for line in read_metrics(self.folder / "metrics.jsonl")]
        return [value for value in values if type(value) in (int, float) and math.isfinite(value)]

    def value(self, metric: Metric | None) -> float | None:
        """Its best value, which W&B's own search uses too; None if it reported nothing."""
        history = [] if metric is None else self.history(metric.name)
        return None if metric is None or not history else min(history, key=lambda value: metric.sign * value)

    def last(self, metric: Metric | None) -> float | None:
        """Its last value; None if it reported nothing."""
        history = [] if metric is None else self.history(metric.name)
        return history[-1] if history else None

    @property
    def reported(self) -> list[str]:
        """The names of its reported metrics."""
        return sorted({name for line in read_metrics(self.folder / "metrics.jsonl") for name in line})

    @property
    def done(self) -> bool:
        """Whether it reported that it has finished."""
        return any(line.get("finished") for line in read_metrics(self.folder / "metrics.jsonl"))


class Journal:
    """The journal of a sweep: one line when a trial begins and one when it ends, on disk before anything else happens.

    Args:
        folder: the sweep's folder.
        identity: plain values that decide the sweep's trials; the first trial reserves the folder for them.
        patience: seconds to wait for other processes that hold the folder, such as the trials of a killed sweep.

    Raises:
        ConfigError: the folder holds another sweep, or one that is running.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, patience: float = 2.0) -> None:
        self._new = [place for place in (folder / ".lock", folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        lock = folder / ".lock"
        if lock.exists() and not lock.is_file():
            # Opening a pipe would block forever.
            raise ConfigError(f"{lock} is no plain file; remove it.")
        # Held by this process and its trials until the last of them ends for any reason.
        self.lock = lock.open("a")
        try:
            if take_lock(self.lock.fileno(), patience, lock) and not is_at(self.lock.fileno(), lock):
                raise BlockingIOError
            self._identity = json.dumps(identity, sort_keys=True, default=str)
            self._check()
            self.trials = self._read()
        except BlockingIOError:
            self.lock.close()
            raise ConfigError(f"folder={folder}: this sweep is running in another process; wait for its end.") from None
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def _close(self) -> None:
        """Release the folder; remove it if nothing was written into it."""
        for place in self._new:
            # A folder that is not empty belongs to someone else.
            with suppress(OSError):
                place.rmdir() if place.is_dir() else place.unlink()
        self.lock.close()

    def begin(self, number: int, parameters: dict[str, Any], shares: dict[str, float]) -> Trial:
        """Record that a trial begins; the first one reserves the folder for this sweep."""
        if not self._home.is_file():
            content = {**json.loads(self._identity), "digest": self._digest}
            write_text(self._home, json.dumps(content, indent=1) + "\n")
        self._write({"trial": number, "event": "begun", "parameters": parameters, "shares": shares})
        self.trials.append(Trial(number, parameters, self._folder(number), shares))
        return self.trials[-1]

    def end(self, trial: Trial, state: State, seconds: float, message: str = "") -> None:
        """Record that a trial has ended."""
        trial.state, trial.seconds, trial.message = state, seconds, message
        self._write({"trial": trial.number, "event": state, "seconds": round(seconds, 3), "message": message})

    def reopen(self, trial: Trial) -> None:
        """Record that a failed trial is tried again."""
        trial.state, trial.message = "begun", ""
        self._write({"trial": trial.number, "event": "begun", "parameters": trial.parameters, "shares": trial.shares})

    def _folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def _write(self, line: Mapping[str, Any]) -> None:
        self._new = []
        append_line(self.folder / "trials.jsonl", json.dumps(line), flush=True)

    @property
    def _home(self) -> Path:
        return self.folder / "sweep.json"

    @property
    def _digest(self) -> str:
        return hashlib.sha256(self._identity.encode()).hexdigest()

    def _check(self) -> None:
        if self._home.is_file() and _digest_in(self._home) != self._digest:
            raise ConfigError(
                f"folder={self.folder}: it holds a sweep of another file, other overrides or another seed; give a new "
                "folder=..., or go on with that one."
            )

    def _read(self) -> list[Trial]:
        path = self.folder / "trials.jsonl"
        if not path.is_file():
            return []
        trials: dict[int, Trial] = {}
        # Without a line that was incomplete when the machine stopped.
        for place, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            with _readable(f"{path}, line {place},"):
                self._take(json.loads(line), trials)
        return list(trials.values())

    def _take(self, line: Any, trials: dict[int, Trial]) -> None:
        """Read a line of the journal, which may come from elsewhere."""
        number, event = _typed(line, "trial", int), _typed(line, "event", str)
        if event == "begun":
            parameters, shares = _typed(line, "parameters", dict), _typed(line, "shares", dict)
            if not all(type(share) in (int, float) for share in shares.values()):
                raise TypeError("shares are no numbers")
            if number != len(trials) and number not in trials:
                raise ValueError(f"trial {number} can't follow {len(trials)} others")
            trials[number] = Trial(number, parameters, self._folder(number), shares)
            return
        if event not in _ENDS:
            raise ValueError(f"event is {event!r}, and one of begun, {', '.join(_ENDS)} was expected")
        trial = trials[number]
        seconds = _typed(line, "seconds", float)
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds is {seconds}")
        trial.state, trial.seconds, trial.message = event, seconds, _typed(line, "message", str)


def _typed(line: Any, name: str, kind: type) -> Any:
    """A line's value, checked for its type."""
    if not isinstance(line, dict):
        raise TypeError(f"it is a {type(line).__name__}, and a table was expected")
    value = line[name]
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError(f"{name} is a {type(value).__name__}, and a {kind.__name__} was expected")
    return value


@contextmanager
def _readable(place: Path | str) -> Iterator[None]:
    """Within this context errors of a damaged file become a `ConfigError` that names the file."""
    try:
        yield
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{place} can't be read ({why}); give a new folder=..., or put it back from a copy."
        ) from None


def _digest_in(path: Path) -> Any:
    with _readable(path):
        return json.loads(path.read_text())["digest"]


def by_metric(trials: Iterable[Trial], metric: Metric | None) -> list[Trial]:
    """Trials from the best to the worst; those without a value last."""

    def place(trial: Trial) -> tuple[bool, float, int]:
        value = trial.value(metric)
        return (value is None, 0.0 if value is None or metric is None else metric.sign * value, trial.number)

    return sorted(trials, key=place)
