"""The trials of a sweep, and the journal that they survive an interruption in."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning_losses.callbacks.records.metrics_file import read_metrics
from lightning_losses.environment.atomic_files import append_line, write_text
from lightning_losses.environment.locks import take_lock
from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.sweeps.sweep_file import Metric

State = Literal["begun", "finished", "stopped", "failed"]


@dataclass
class Trial:
    """One run of a sweep.

    Attributes:
        number: from 0.
        parameters: its own, by dotted name.
        folder: where it writes.
        shares: what the search that learns drew for each parameter; empty elsewhere.
        state: "begun" until it ends; "stopped" is early termination's end, or that of a sweep that reached its target.
        seconds: it took.
        message: why it failed.
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
        """Whether it is over."""
        return self.state != "begun"

    def history(self, metric: str) -> list[float]:
        """What it has reported of a metric, finite values in order."""
        values: list[Any] = [line.get(metric) for line in read_metrics(self.folder / "metrics.jsonl")]
        return [value for value in values if type(value) in (int, float) and math.isfinite(value)]

    def value(self, metric: Metric | None) -> float | None:
        """The best that it has reported: what W&B's own search goes by. None if it reported nothing."""
        history = [] if metric is None else self.history(metric.name)
        return None if metric is None or not history else min(history, key=lambda value: metric.sign * value)

    def last(self, metric: Metric | None) -> float | None:
        """The last that it has reported; None if it reported nothing."""
        history = [] if metric is None else self.history(metric.name)
        return history[-1] if history else None

    @property
    def reported(self) -> list[str]:
        """The names of what it has reported."""
        return sorted({name for line in read_metrics(self.folder / "metrics.jsonl") for name in line})

    @property
    def done(self) -> bool:
        """Whether it said itself that it has finished."""
        return any(line.get("finished") for line in read_metrics(self.folder / "metrics.jsonl"))


class Journal:
    """Which trials of a sweep have begun and ended, a line each, on disk before anything follows from it.

    Args:
        folder: the sweep's.
        identity: plain values that decide what the sweep's trials are; with its first trial the folder is taken.
        patience: seconds to wait for a process that has the folder, such as the trials of a sweep that was killed.

    Raises:
        ConfigError: the folder holds another sweep, or one that is running.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, patience: float = 2.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        # Held by this process and by its trials until the last of them ends, however it ends.
        self.lock = (folder / ".lock").open("a")
        try:
            take_lock(self.lock.fileno(), patience, folder / ".lock")
            self._identity = json.dumps(identity, sort_keys=True, default=str)
            self._check()
            self.trials = self._read()
        except BlockingIOError:
            self.lock.close()
            raise ConfigError(f"folder={folder}: this sweep is running in another process; wait for its end.") from None
        except BaseException:
            self.lock.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self.lock.close()

    def begin(self, number: int, parameters: dict[str, Any], shares: dict[str, float]) -> Trial:
        """Note that a trial begins; the first one makes the folder this sweep's."""
        if not self._home.is_file():
            content = {**json.loads(self._identity), "digest": self._digest}
            write_text(self._home, json.dumps(content, indent=1) + "\n")
        self._write({"trial": number, "event": "begun", "parameters": parameters, "shares": shares})
        self.trials.append(Trial(number, parameters, self._folder(number), shares))
        return self.trials[-1]

    def end(self, trial: Trial, state: State, seconds: float, message: str = "") -> None:
        """Note that a trial is over."""
        trial.state, trial.seconds, trial.message = state, seconds, message
        self._write({"trial": trial.number, "event": state, "seconds": round(seconds, 3), "message": message})

    def reopen(self, trial: Trial) -> None:
        """Note that a failed trial is tried again."""
        trial.state, trial.message = "begun", ""
        self._write({"trial": trial.number, "event": "begun", "parameters": trial.parameters, "shares": trial.shares})

    def _folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def _write(self, line: Mapping[str, Any]) -> None:
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
        with _readable(path):
            return self._trials(path)

    def _trials(self, path: Path) -> list[Trial]:
        trials: dict[int, Trial] = {}
        # Without the line that was being written when the machine stopped.
        for line in map(json.loads, path.read_text().split("\n")[:-1]):
            number = line["trial"]
            if line["event"] == "begun":
                trials[number] = Trial(number, line["parameters"], self._folder(number), line["shares"])
            else:
                trial = trials[number]
                trial.state, trial.seconds, trial.message = line["event"], line["seconds"], line["message"]
        return list(trials.values())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Within this context what a damaged file raises is a `ConfigError` that names it."""
    try:
        yield
    except (ValueError, LookupError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path} can't be read ({why}); give a new folder=..., or put it back from a copy.") from None


def _digest_in(path: Path) -> Any:
    with _readable(path):
        return json.loads(path.read_text())["digest"]


def by_metric(trials: Iterable[Trial], metric: Metric | None) -> list[Trial]:
    """Trials from the best to the worst; those without a value last."""

    def place(trial: Trial) -> tuple[bool, float, int]:
        value = trial.value(metric)
        return (value is None, 0.0 if value is None or metric is None else metric.sign * value, trial.number)

    return sorted(trials, key=place)
