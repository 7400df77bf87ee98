"""Leaves a checkpoint at the start, after every epoch and when interrupted, from which a run continues exactly."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_losses.callbacks.logged_values import add_logged_values, logged_values


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` when training starts, after every epoch and when interrupted; ``best.ckpt`` after the best.

    Ctrl-C and SIGTERM let the running optimizer step end, write ``last.ckpt`` and end the training; in the last step
    of an epoch they let the epoch end. A second one ends it at once. The resumed run goes on with the next batch and
    equals an uninterrupted one, if its loaders tell where they are (`ResumableLoader`, or any with ``state_dict``) and
    `EpochSeed` saves the random numbers. Otherwise, on several processes, and where a run is killed, it goes on from
    the last whole epoch, and the begun epoch is done again. Give the trainer
    `lightning_losses.recipe.AtomicCheckpoints`, which replaces a checkpoint only by a complete one.

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
        self._signal: int | None = None
        self._mid_epoch = False
        self._handlers: dict[int, Any] = {}
        self._logged: dict[str, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the start, so that also an interruption of the first epoch leaves a checkpoint."""
        if trainer.global_step == 0:
            trainer.save_checkpoint(self.folder / "last.ckpt")
        self._signal, self._mid_epoch = None, False
        self._listen(_why_not(trainer))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """If interrupted, and this ends an optimizer step within the epoch, have the training end after it."""
        if self._logged:
            add_logged_values(trainer, self._logged)
        if self._signal is not None and _between_steps(trainer, batch_idx):
            self._mid_epoch = True
            _leave(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch that is done."""
        if self.monitor is not None:
            value = float(trainer.callback_metrics[self.monitor])
            if self.best is None or value > self.best:
                self.best = value
                trainer.save_checkpoint(self.folder / "best.ckpt")
        self._due = self._signal is None and time.monotonic() - self._written < self.seconds
        if not self._due:
            trainer.save_checkpoint(self.folder / "last.ckpt")
            self._written = time.monotonic()
        self._mid_epoch = False
        self._logged = {}
        if self._signal is not None:
            _leave(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last epoch, if its time had not come."""
        if self._due:
            trainer.save_checkpoint(self.folder / "last.ckpt")
        handlers = self._unlisten()
        if self._signal is not None:
            # After the last epoch was written: there is nothing left to wait for.
            handlers[self._signal](self._signal, None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the moment, if this is the end that an interruption asked for."""
        handlers = self._handlers.copy()
        try:
            if self._signal is None or not isinstance(exception, SIGTERMException):
                return
            if self._mid_epoch:
                trainer.save_checkpoint(self.folder / "last.ckpt")
            # What interrupted is told by the context, as where Lightning leaves by itself.
            exception.__context__ = _raised_by(handlers[self._signal], self._signal)
        finally:
            self._unlisten()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save what the begun epoch has logged."""
        if self._mid_epoch:
            checkpoint["logged_values"] = logged_values(trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take what the begun epoch had logged."""
        self._logged = dict(checkpoint.get("logged_values", {}))

    def state_dict(self) -> dict[str, float | None]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Go on comparing with the best value so far."""
        self.best = state_dict["best"]

    def _listen(self, why_not: str | None) -> None:
        if threading.current_thread() is not threading.main_thread():
            return

        def interrupted(number: int, frame: FrameType | None) -> None:
            at_once = self._signal is not None or why_not is not None
            if why_not is not None:
                _tell(f"last_checkpoint: {why_not}, so this run will go on from its last whole epoch.")
            elif not at_once:
                _tell("Interrupted: a checkpoint is written after this step (once more: end at once).")
            self._signal = number
            if at_once:
                self._signal = None
                self._unlisten()[number](number, frame)

        for number in (signal.SIGINT, signal.SIGTERM):
            # What is ignored, or ends the process without a word, stays as it is.
            if callable(before := signal.getsignal(number)):
                self._handlers[number] = before
                signal.signal(number, interrupted)

    def _unlisten(self) -> dict[int, Callable[[int, FrameType | None], Any]]:
        handlers, self._handlers = self._handlers, {}
        for number, before in handlers.items():
            signal.signal(number, before)
        return handlers


def _why_not(trainer: L.Trainer) -> str | None:
    """Why this run can't continue within an epoch."""
    if trainer.world_size > 1:
        return "several processes can't be interrupted at the same step"
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


def _leave(trainer: L.Trainer) -> None:
    # Lightning's own way out, after the module's hooks; they also belong to the step.
    trainer._signal_connector.received_sigterm = True


def _raised_by(handler: Callable[[int, FrameType | None], Any], number: int) -> BaseException | None:
    try:
        handler(number, None)
    except BaseException as interrupt:
        return interrupt
    return None


def _tell(text: str) -> None:
    # Not by a stream: what was interrupted may be writing to it.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
