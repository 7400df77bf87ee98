"""Runs a sweep's trials in processes, one after another or in parallel, and continues an interrupted sweep."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_losses.experiments.config.check_config import ConfigError
from lightning_losses.experiments.config.check_overrides import to_repeat
from lightning_losses.experiments.sweeps import child
from lightning_losses.experiments.sweeps.command import recipe_of
from lightning_losses.experiments.sweeps.search import make_search
from lightning_losses.experiments.sweeps.sweep_file import Sweep
from lightning_losses.experiments.sweeps.trials import Journal, State, Trial

# If the first this many trials fail, the sweep ends, as with W&B's agent.
_FAILURES = 3
# Seconds that a run gets to write a checkpoint after a request to end.
_PATIENCE = 30.0


class AllFailedError(ConfigError):
    """Every trial that has ended has failed."""


@dataclass
class _Process:
    trial: Trial
    popen: subprocess.Popen[bytes]
    output: IO[bytes]
    started: float
    before: float
    size: int = -1
    stopped: bool = False
    asked: float | None = None


class Runner:
    """Runs trials until the requested number has ended.

    A trial is a process of the sweep's command. The environment variable ``LIGHTNING_LOSSES_TRIAL`` holds the trial's
    folder; commands that take Hydra's overrides also get it as ``hydra.run.dir``. The trial appends its reports to
    ``metrics.jsonl`` in that folder, one line of JSON each, as the recipes do. Its output is written to ``output.txt``.
    It ends when this process ends, for any reason.

    Args:
        sweep: the sweep to run.
        journal: the journal in the sweep's folder.
        overrides: overrides added to every trial's command.
        seed: seed of the search.
        parallel: number of trials that run at the same time.
        poll: seconds between checks of the processes.
    """

    def __init__(
        self,
        sweep: Sweep,
        journal: Journal,
        *,
        overrides: Sequence[str] = (),
        seed: int = 0,
        parallel: int = 1,
        poll: float = 0.2,
    ) -> None:
        self.sweep = sweep
        self.journal = journal
        self.overrides = list(overrides)
        self.parallel = parallel
        self.poll = poll
        # A folder may come from elsewhere, and its values are put on a command line.
        for trial in journal.trials:
            for name, value in trial.parameters.items():
                if name not in sweep.parameters or not sweep.parameters[name].gives(value):
                    raise ConfigError(
                        f"{journal.folder / 'trials.jsonl'}: trial {trial.number} has {name}={value!r}, which "
                        f"{sweep.path} does not allow; give a new folder=..."
                    )
        self._search = make_search(sweep, seed)
        self._running: list[_Process] = []

    @property
    def trials(self) -> list[Trial]:
        """All trials that have begun, in order."""
        return self.journal.trials

    def run(self, count: int | None, *, retry: bool = False) -> None:
        """Run until `count` trials have ended, the grid or the file's cap is exhausted, or the target is reached.

        Args:
            count: number of trials, including those of earlier calls; None only if the grid or the cap limits it.
            retry: whether failed trials are run again.

        Raises:
            KeyboardInterrupt: after the running trials have written their checkpoints.
            AllFailedError: the first trials all failed.
            ConfigError: a metric that a trial does not report.
        """
        if retry:
            for trial in self.trials:
                if trial.state == "failed":
                    self.journal.reopen(trial)
        waiting = [trial for trial in self.trials if not trial.ended]
        for trial in [trial for trial in waiting if trial.done]:
            # It ended unnoticed.
            waiting.remove(trial)
            self.journal.end(trial, "finished", _age(trial))
        total = self._total(count)
        with ExitStack() as stack:
            stack.callback(self._kill)
            console = Console() if Console().is_terminal else Console(width=120)
            columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
            progress = stack.enter_context(Progress(TextColumn("{task.description}"), *columns, console=console))
            task = progress.add_task(self.sweep.name, total=total)
            try:
                while True:
                    self._start(waiting, total)
                    ended = sum(trial.ended for trial in self.trials)
                    progress.update(task, completed=ended, description=self._description())
                    if not self._running:
                        return
                    time.sleep(self.poll)
                    for process in list(self._running):
                        self._look(process)
                    if self._reached():
                        # The running trials are no longer needed.
                        self._signal(signal.SIGTERM)
                        self._wait("stopped")
                        return
            except KeyboardInterrupt:
                progress.update(task, description="interrupted; the running trials leave their checkpoints")
                self._signal(signal.SIGINT)
                self._wait(None)
                raise

    def _total(self, count: int | None) -> int | None:
        limits = [limit for limit in (count, self.sweep.run_cap) if limit is not None]
        if self.sweep.method == "grid":
            limits.append(sum(1 for _ in self.sweep.grid()))
        return min(limits) if limits else None

    def _description(self) -> str:
        parts = []
        for process in self._running:
            last = process.trial.last(self.sweep.metric)
            parts.append(f"{process.trial.number}" + ("" if last is None else f" ({last:.4g})"))
        return f"{self.sweep.name}: trial {', '.join(parts)}" if parts else self.sweep.name

    def _start(self, waiting: list[Trial], total: int | None) -> None:
        while len(self._running) < self.parallel and not self._reached():
            if waiting:
                trial = waiting.pop(0)
                self._spawn(trial, resume=self._resumable(trial))
                continue
            if total is not None and len(self.trials) >= total:
                return
            proposal = self._search(len(self.trials), self.trials)
            if proposal is None:
                return
            self._spawn(self.journal.begin(len(self.trials), *proposal), resume=False)

    def _spawn(self, trial: Trial, *, resume: bool) -> None:
        if not resume and trial.folder.exists():
            # An interrupted run that can't be continued.
            shutil.rmtree(trial.folder)
        trial.folder.mkdir(parents=True, exist_ok=True)
        words = self.command(trial, resume=resume)
        output = (trial.folder / "output.txt").open("ab")
        popen = subprocess.Popen(
            [sys.executable, child.__file__, str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches only this process, which passes it on once.
            process_group=0,
            pass_fds=(self.journal.lock.fileno(),),
            env={
                **os.environ,
                "LIGHTNING_LOSSES_TRIAL": str(trial.folder.resolve()),
                "WANDB_RUN_GROUP": os.environ.get("WANDB_RUN_GROUP", self.sweep.name),
                "WANDB_SILENT": os.environ.get("WANDB_SILENT", "true"),
            },
        )
        self._running.append(_Process(trial, popen, output, time.monotonic(), trial.seconds))

    def command(self, trial: Trial, *, resume: bool = False) -> list[str]:
        """The words of the command that starts or continues a trial."""
        words = self.sweep.words(trial.parameters, json_file=trial.folder / "parameters.json")
        recipe = recipe_of(words)
        if resume and recipe is not None:
            end = next(place for place in range(len(words)) if recipe_of(words[: place + 1]) is not None)
            repeated = to_repeat(trial.folder, [*words[end + 1 :], *self.overrides])
            return [*words[: end + 1], f"resume='{trial.folder}'", *repeated]
        if not self.sweep.hydra:
            return [*words, *self.overrides]
        return [*words, *self.overrides, f"hydra.run.dir='{trial.folder}'"]

    def _resumable(self, trial: Trial) -> bool:
        """Whether a run left a checkpoint that a recipe continues from."""
        return recipe_of(self.sweep.words({})) is not None and (
            (trial.folder / ".hydra" / "overrides.yaml").is_file()
            and any((trial.folder / "checkpoints").glob("*/last.ckpt"))
        )

    def _look(self, process: _Process) -> None:
        code = process.popen.poll()
        if code is not None:
            self._close(process, code)
            return
        if process.asked is not None and time.monotonic() - process.asked > _PATIENCE:
            process.popen.kill()
        file = process.trial.folder / "metrics.jsonl"
        size = file.stat().st_size if file.is_file() else 0
        if size != process.size:
            process.size = size
            if not process.stopped and self._behind(process.trial):
                process.stopped, process.asked = True, time.monotonic()
                process.popen.terminate()

    def _behind(self, trial: Trial) -> bool:
        metric, rule = self.sweep.metric, self.sweep.hyperband
        if metric is None or rule is None or trial.done:
            return False
        histories = [[metric.sign * value for value in other.history(metric.name)] for other in self.trials]
        return rule.stops(histories[trial.number], histories)

    def _close(self, process: _Process, code: int) -> None:
        process.output.close()
        self._running.remove(process)
        trial, seconds = process.trial, process.before + time.monotonic() - process.started
        if process.stopped and not trial.done:
            self.journal.end(trial, "stopped", seconds)
        elif code == 0:
            self._check_reported(trial, seconds)
        else:
            self.journal.end(trial, "failed", seconds, _reason(trial, code))
            ended = [other for other in self.trials if other.ended]
            if len(ended) >= _FAILURES and all(other.state == "failed" for other in ended):
                raise AllFailedError(
                    f"{self.sweep.path}: the first {len(ended)} trials failed, the last: {trial.message}"
                )

    def _check_reported(self, trial: Trial, seconds: float) -> None:
        metric = self.sweep.metric
        known = trial.reported
        if metric is None or metric.name in known:
            self.journal.end(trial, "finished", seconds)
            return
        message = f"it reported no {metric.name}, but {', '.join(known) or 'nothing'}"
        self.journal.end(trial, "failed", seconds, message)
        raise ConfigError(f"{self.sweep.path}: metric: trial {trial.number} ended, and {message}.")

    def _reached(self) -> bool:
        metric = self.sweep.metric
        if metric is None or metric.target is None:
            return False
        values = [trial.value(metric) for trial in self.trials]
        return any(value is not None and metric.sign * (value - metric.target) <= 0 for value in values)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._running:
            process.popen.send_signal(number)

    def _wait(self, state: State | None) -> None:
        until = time.monotonic() + _PATIENCE
        for process in list(self._running):
            try:
                process.popen.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
            process.output.close()
            self._running.remove(process)
            trial, seconds = process.trial, process.before + time.monotonic() - process.started
            if process.popen.returncode == 0 and trial.done:
                self.journal.end(trial, "finished", seconds)
            elif state is not None:
                self.journal.end(trial, state, seconds)

    def _kill(self) -> None:
        for process in self._running:
            process.popen.kill()
            process.popen.wait()
            process.output.close()
        self._running.clear()


def _reason(trial: Trial, code: int) -> str:
    """The error that a failed run printed, or else its last line, and its exit code."""
    lines = (trial.folder / "output.txt").read_text(errors="replace").strip().splitlines()
    lines = [line for line in lines if not line.startswith("(debug=true")]
    # Advice may follow the error.
    lines = [line for line in lines if line.startswith("Error: ")] or lines
    end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{lines[-1].strip()} ({end})" if lines else end


def _age(trial: Trial) -> float:
    """The approximate duration of a trial, from its files."""
    return max((trial.folder / "metrics.jsonl").stat().st_mtime - trial.folder.stat().st_ctime, 0.0)


def default_folder(sweep_file: Path) -> Path:
    """The default folder of a file's sweep."""
    return Path("outputs") / "sweeps" / sweep_file.stem
