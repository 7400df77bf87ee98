"""Leaves a checkpoint at the start, after every epoch and when interrupted, from which a run continues exactly."""

import atexit
import contextlib
import functools
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_losses.checkpoints.logged_values import add_logged_values, logged_values
from lightning_losses.checkpoints.process_states import add_process_states, take_process_states
from lightning_losses.environment.lightning_internals import (
    cluster_environment,
    forks_processes,
    handler_before,
    leave_after_step,
    release_processes,
    wrap_batches,
)
from lightning_losses.parallel.processes import maximum_of_all

# Launchers pass a signal on to processes that may have had it from the terminal or the scheduler already.
_SAME_SIGNAL_SECONDS = 3.0


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` when training starts, after every epoch and when interrupted; ``best.ckpt`` after the best.

    Ctrl-C and SIGTERM let the running optimizer step end, write ``last.ckpt`` and end the training; in the last step
    of an epoch they let the epoch end. A second one ends it at once. The resumed run goes on with the next batch and
    equals an uninterrupted one, if its loaders tell where they are (`ResumableLoader`, or any with ``state_dict``) and
    `EpochSeed` saves the random numbers. Otherwise, and where a run is killed, it goes on from the last whole epoch,
    and the begun epoch is done again. Give the trainer `lightning_losses.checkpoints.AtomicCheckpoints`, which replaces
    a checkpoint only by a complete one.

    Several processes agree after each optimizer step, by one number that is reduced, whether any of them was
    interrupted, and end after the same step; a signal that comes again within three seconds counts once, since
    launchers pass on what processes have had. The checkpoint holds what each process has of its own: the positions of
    its loaders, what the begun epoch has logged, and callbacks' states that differ. The signal by which SLURM tells
    that a job's time is over is answered likewise; what Lightning does then (a checkpoint of its own, and ``scontrol
    requeue``) it does after that step, in place of within it, where processes would wait for each other in vain.

    Args:
        folder: where the checkpoints go.
        monitor: the logged metric, larger is better, that decides which epoch is best (of equals, the first); None
            writes no ``best.ckpt``.
        seconds: the least time between two times of writing ``last.ckpt`` after an epoch, where epochs are shorter
            than their checkpoint is worth; the end is always written.
    """

    def __init__(self, folder: str | Path, monitor: str | None = None, seconds: float = 0.0) -> None:
        self.folder = Path(folder)
        self.monitor = monitor
        self.seconds = seconds
        self.best: float | None = None
        self._written = -math.inf
        self._due = False
        # The signal that came to this process, and when; the one that all processes know of. 0: none.
        self._received, self._received_at = 0, -math.inf
        self._signal = 0
        self._requeue_signal = 0
        self._why_not: str | None = None
        self._mid_epoch = False
        self._handlers: dict[int, Any] = {}
        self._logged: dict[str, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the start, so that also an interruption of the first epoch leaves a checkpoint."""
        if trainer.global_step == 0:
            _save(trainer, self.folder / "last.ckpt")
        self._received = self._signal = 0
        self._mid_epoch = False
        self._why_not = _why_not(trainer)
        self._listen(trainer)
        if forks_processes(trainer):
            self._catch(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """If interrupted, and this ends an optimizer step within the epoch, have the training end after it."""
        if self._logged:
            add_logged_values(trainer, self._logged)
        if _between_steps(trainer, batch_idx) and self._interrupted(trainer):
            self._mid_epoch = self._why_not is None
            leave_after_step(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch that is done."""
        if self.monitor is not None:
            value = float(trainer.callback_metrics[self.monitor])
            if self.best is None or value > self.best:
                self.best = value
                _save(trainer, self.folder / "best.ckpt")
        interrupted = self._interrupted(trainer)
        self._due = not interrupted and self._too_soon(trainer)
        if not self._due:
            _save(trainer, self.folder / "last.ckpt")
            self._written = time.monotonic()
        self._mid_epoch = False
        self._logged = {}
        if interrupted:
            self._requeue()
            leave_after_step(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last epoch, if its time had not come."""
        if self._due:
            _save(trainer, self.folder / "last.ckpt")
        interrupted = self._interrupted(trainer)
        handlers = self._unlisten()
        if interrupted:
            # After the last epoch was written: there is nothing left to wait for.
            _pass_on(handlers, self._signal)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the moment, if this is the end that an interruption asked for."""
        try:
            if not self._signal or not isinstance(exception, SIGTERMException):
                return
            if self._mid_epoch:
                _save(trainer, self.folder / "last.ckpt")
            if self._mid_epoch or self._why_not is not None:
                self._requeue()
            if trainer.world_size > 1:
                _let_leave()
                trainer.strategy.barrier("every process has written its part")
            if self._signal != self._requeue_signal:
                # What interrupted is told by the context, as where Lightning leaves by itself.
                exception.__context__ = _raised_by(self._handlers.get(self._signal), self._signal)
        finally:
            self._unlisten()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save what each process has of the begun epoch."""
        if self._mid_epoch:
            add_process_states(checkpoint, logged_values(trainer))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take what this process had of the begun epoch."""
        self._logged = take_process_states(checkpoint, trainer)

    def state_dict(self) -> dict[str, float | None]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Go on comparing with the best value so far."""
        self.best = state_dict["best"]

    def _interrupted(self, trainer: L.Trainer) -> bool:
        """Whether any process was interrupted; every process must ask at once."""
        self._signal = self._received
        if trainer.world_size > 1:
            number = torch.tensor(self._received, device=trainer.strategy.root_device)
            # Not by the strategy's `reduce`, which waits at a barrier first.
            self._signal = int(maximum_of_all(number))
            if self._signal and not self._received and trainer.is_global_zero:
                _tell(self._answer(trainer))
        return self._signal != 0

    def _too_soon(self, trainer: L.Trainer) -> bool:
        soon = time.monotonic() - self._written < self.seconds
        # The processes' clocks may differ, and all of them write or none.
        return trainer.strategy.broadcast(soon) if self.seconds > 0 else soon

    def _requeue(self) -> None:
        """What Lightning does when SLURM says that the time is over."""
        if self._signal == self._requeue_signal and self._signal in self._handlers:
            self._handlers[self._signal](self._signal, None)

    def _answer(self, trainer: L.Trainer) -> str:
        if self._why_not is not None:
            return f"last_checkpoint: {self._why_not}, so this run will go on from its last whole epoch."
        later = "" if trainer.world_size == 1 else f", {_SAME_SIGNAL_SECONDS:.0f} seconds later or more"
        return f"Interrupted: a checkpoint is written after this step (once more{later}: end at once)."

    def _listen(self, trainer: L.Trainer) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        several = trainer.world_size > 1

        def interrupted(number: int, frame: FrameType | None) -> None:
            first = not self._received
            if not first and self._requeue_signal in (number, self._received):
                # What SLURM ends a job with; the time until it kills belongs to the checkpoint.
                return
            if not first and several and time.monotonic() - self._received_at < _SAME_SIGNAL_SECONDS:
                return
            if first and trainer.is_global_zero:
                _tell(self._answer(trainer))
            self._received, self._received_at = number, time.monotonic()
            if not first or (self._why_not is not None and not several):
                self._received = self._signal = 0
                _pass_on(self._unlisten(), number)

        environment = cluster_environment(trainer)
        self._requeue_signal = 0
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue_signal = int(environment.requeue_signal or 0)
        for number in (signal.SIGINT, signal.SIGTERM, *([self._requeue_signal] if self._requeue_signal else [])):
            # What is ignored, or ends the process without a word, stays as it is.
            before: Any = signal.getsignal(number)
            if callable(before):
                if several and number == signal.SIGTERM:
                    before = handler_before(trainer, signal.SIGTERM, before)
                self._handlers[number] = before
                signal.signal(number, interrupted)

    def _unlisten(self) -> dict[int, Any]:
        handlers, self._handlers = self._handlers, {}
        for number, before in handlers.items():
            signal.signal(number, before)
        return handlers

    def _catch(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """In a process that Lightning forked, where it tells callbacks of no exception."""

        def catching(part: Callable[[], None]) -> Callable[[], None]:
            @functools.wraps(part)
            def caught() -> None:
                try:
                    part()
                except SIGTERMException as exception:
                    self.on_exception(trainer, pl_module, exception)
                    # With 0 the process that waits for this one would wait for its results.
                    exception.code = 128 + self._signal
                    raise

            return caught

        wrap_batches(trainer, catching)


def _save(trainer: L.Trainer, path: Path) -> None:
    """Write a checkpoint; where it can't be written, every process raises what the first one met."""
    if trainer.world_size == 1:
        trainer.save_checkpoint(path)
        return
    failure: tuple[int | None, str, str] | None = None
    try:
        trainer.save_checkpoint(path)
    except OSError as error:
        failure = error.errno, error.strerror or str(error), str(error.filename or path)
        # The one at the end of `save_checkpoint`, where the others wait.
        trainer.strategy.barrier("Trainer.save_checkpoint")
    failure = trainer.strategy.broadcast(failure)
    if failure is not None:
        _let_leave()
        trainer.strategy.barrier("every process knows")
        raise OSError(*failure)


def _why_not(trainer: L.Trainer) -> str | None:
    """Why this run can't continue within an epoch."""
    if trainer.overfit_batches > 0:  # type: ignore[attr-defined]
        return "overfit_batches replaces the samples' order"
    for loader in CombinedLoader(trainer.train_dataloader).flattened:
        if not (hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")):
            return f"the training {type(loader).__name__} has no state_dict"
    return None


def _between_steps(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether no gradients wait, and neither validation nor the epoch's end follows."""
    done, every = batch_idx + 1, trainer.val_check_batch
    total = trainer.fit_loop.total_batch_idx + 1
    validates = every is not None and math.isfinite(every) and 0 in (done % every, total % every)
    return done % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch and not validates


def _raised_by(handler: Any, number: int) -> BaseException | None:
    try:
        if callable(handler):
            handler(number, None)
    except BaseException as interrupt:
        return interrupt
    return None


def _pass_on(handlers: dict[int, Any], number: int) -> None:
    """Answer a signal as if this callback were not there."""
    if callable(handler := handlers.get(number)):
        handler(number, None)
    elif handler == signal.SIG_DFL:
        os.kill(os.getpid(), number)


def _let_leave() -> None:
    """Where Lightning started further processes: let them leave without killing this one, and wait for them."""
    atexit.register(_wait_for, release_processes())


def _wait_for(processes: list[subprocess.Popen[Any]]) -> None:
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)


def _tell(text: str) -> None:
    # Not by a stream: what was interrupted may be writing to it.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
