"""Handles the signals that end a run, so that all its processes end after the same step."""

import atexit
import contextlib
import functools
import math
import multiprocessing
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from lightning_losses.checkpoints.slurm import requeue_signal
from lightning_losses.environment.lightning_internals import (
    forks_processes,
    handler_before,
    release_processes,
    wrap_batches,
)
from lightning_losses.parallel.processes import maximum_of_all

# Launchers pass a signal on to processes that may have received it already from the terminal or scheduler.
_SAME_SIGNAL_SECONDS = 3.0


class Terminated(KeyboardInterrupt):
    """SIGTERM: it interrupts a run like Ctrl-C, with another exit code."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within this context SIGTERM interrupts like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """The exit code of an interrupted program.

    Example:
        >>> exit_code(KeyboardInterrupt()), exit_code(Terminated())
        (130, 143)
    """
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


def interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interruption behind an error: the error itself, or its context if Lightning shut down because of it."""
    interrupt = error.__context__ if isinstance(error, SystemExit) else error
    return interrupt if isinstance(interrupt, KeyboardInterrupt) else None


class Interruption:
    """Ctrl-C, SIGTERM or SLURM's signal: any process may receive the signal, and all end after the same step.

    Attributes:
        received: the signal that this process received; 0 for none.
        agreed: the signal that all processes know of; 0 for none.
    """

    def __init__(self) -> None:
        self.received = self.agreed = 0
        self._received_at = -math.inf
        self._requeue_signal = 0
        self._why_not: str | None = None
        self._handlers: dict[int, Any] = {}

    def listen(self, trainer: L.Trainer, why_not: str | None) -> None:
        """Install the signal handlers.

        Args:
            trainer: the trainer to interrupt.
            why_not: the reason why training can't be continued within an epoch, if there is one; with one process a
                signal then ends training at once.
        """
        self.received = self.agreed = 0
        self._why_not = why_not
        if threading.current_thread() is not threading.main_thread():
            return
        several = trainer.world_size > 1

        def interrupted(number: int, frame: FrameType | None) -> None:
            first = not self.received
            if not first and self._requeue_signal in (number, self.received):
                # SLURM ends a job with this signal; the time until it kills is needed for the checkpoint.
                return
            if not first and several and time.monotonic() - self._received_at < _SAME_SIGNAL_SECONDS:
                return
            if first and trainer.is_global_zero:
                _tell(self._answer(trainer))
            self.received, self._received_at = number, time.monotonic()
            if not first or (self._why_not is not None and not several):
                self.received = self.agreed = 0
                _pass_on(self._unlisten(), number)

        self._requeue_signal = requeue_signal(trainer)
        for number in (signal.SIGINT, signal.SIGTERM, *([self._requeue_signal] if self._requeue_signal else [])):
            # Keep handlers that ignore the signal or end the process silently.
            before: Any = signal.getsignal(number)
            if callable(before):
                if several and number == signal.SIGTERM:
                    before = handler_before(trainer, signal.SIGTERM, before)
                self._handlers[number] = before
                signal.signal(number, interrupted)

    def came(self, trainer: L.Trainer) -> bool:
        """Whether any process was interrupted; all processes must call it together."""
        self.agreed = self.received
        if trainer.world_size > 1:
            number = torch.tensor(self.received, device=trainer.strategy.root_device)
            # Not the strategy's `reduce`, which waits at a barrier first.
            self.agreed = int(maximum_of_all(number))
            if self.agreed and not self.received and trainer.is_global_zero:
                _tell(self._answer(trainer))
        return self.agreed != 0

    def requeue(self) -> None:
        """Run Lightning's requeueing if SLURM signalled the end of the time limit."""
        if self.agreed == self._requeue_signal and self.agreed in self._handlers:
            self._handlers[self.agreed](self.agreed, None)

    def name_in(self, exception: BaseException) -> None:
        """Set the interruption as context of the exception that ends training, as Lightning does."""
        if self.agreed != self._requeue_signal:
            exception.__context__ = _raised_by(self._handlers.get(self.agreed), self.agreed)

    def end(self, *, answered: bool) -> None:
        """Restore the former signal handlers, and pass an unanswered signal to them."""
        handlers = self._unlisten()
        if self.agreed and not answered:
            _pass_on(handlers, self.agreed)

    def catch(self, trainer: L.Trainer, then: Callable[[SIGTERMException], None]) -> None:
        """Call a function when training ends in a forked process, where Lightning doesn't notify callbacks."""

        def catching(part: Callable[[], None]) -> Callable[[], None]:
            @functools.wraps(part)
            def caught() -> None:
                try:
                    part()
                except SIGTERMException as exception:
                    then(exception)
                    # With exit code 0 the parent process would wait for results.
                    exception.code = 128 + self.agreed
                    raise

            return caught

        wrap_batches(trainer, catching)

    def _unlisten(self) -> dict[int, Any]:
        handlers, self._handlers = self._handlers, {}
        for number, before in handlers.items():
            signal.signal(number, before)
        return handlers

    def _answer(self, trainer: L.Trainer) -> str:
        if self._why_not is not None:
            return f"last_checkpoint: {self._why_not}, so this run will continue from its last complete epoch."
        later = "" if trainer.world_size == 1 else f" after {_SAME_SIGNAL_SECONDS:.0f} seconds"
        return f"Interrupted: a checkpoint is written after this step (interrupt again{later} to end at once)."


@contextmanager
def interruptible(trainer: L.Trainer) -> Iterator[None]:
    """Within this context forked processes get Ctrl-C and SIGTERM, and this process ends as they do.

    Raises:
        KeyboardInterrupt, or the exception for SIGTERM: the processes were interrupted, and have written their
            checkpoint.
        OSError: the system refused something in a forked process.
    """
    if not forks_processes(trainer) or threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own = os.getpid()
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            # A forked process outside of its training; not KeyboardInterrupt, which torch counts as success.
            raise SystemExit(128 + number)
        children = multiprocessing.active_children()
        for child in children:
            os.kill(child.pid or own, signal.SIGKILL if told else number)
        told.append(number)
        for child in children:
            child.join()
        answer(number)

    def answer(number: int) -> None:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        signal.raise_signal(number)

    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, tell)
    try:
        yield
    except ProcessExitedException as ended:
        if ended.exit_code not in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            raise
        answer(ended.exit_code - 128)
        raise
    except ProcessRaisedException as raised:
        # Only the text of the error is left.
        refused = re.fullmatch(r"\w+: \[Errno (\d+)\] (.+): '(.+)'", raised.msg.strip().splitlines()[-1])
        if refused is None:
            raise
        raise OSError(int(refused[1]), refused[2], refused[3]) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def leave_together(trainer: L.Trainer, why: str) -> None:
    """Before several processes end: wait for the others, and let processes started by Lightning exit by themselves."""
    atexit.register(_wait_for, release_processes())
    trainer.strategy.barrier(why)


def _wait_for(processes: list[subprocess.Popen[Any]]) -> None:
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _raised_by(handler: Any, number: int) -> BaseException | None:
    try:
        if callable(handler):
            handler(number, None)
    except BaseException as interrupt:
        return interrupt
    return None


def _pass_on(handlers: dict[int, Any], number: int) -> None:
    """Handle a signal as if there were no handler here."""
    if callable(handler := handlers.get(number)):
        handler(number, None)
    elif handler == signal.SIG_DFL:
        os.kill(os.getpid(), number)


def _tell(text: str) -> None:
    # Not through a stream, because the interrupted code may be writing to it.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
