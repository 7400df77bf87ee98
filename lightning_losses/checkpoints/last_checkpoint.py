"""Writes a checkpoint at the start, after every epoch and when interrupted, from which a run continues exactly."""

import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_losses.checkpoints.atomic_checkpoints import write_on_all
from lightning_losses.checkpoints.interruption import Interruption, leave_together
from lightning_losses.checkpoints.process_states import (
    add_logged_values,
    add_process_states,
    complete_epoch,
    logged_values,
    take_process_states,
)
from lightning_losses.environment.lightning_internals import (
    forks_processes,
    go_on_after_whole_epochs,
    leave_after_step,
)
from lightning_losses.environment.two_lightnings import refuse_other_lightning


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` at the start, after every epoch and when interrupted; ``best.ckpt`` after the best epoch.

    On Ctrl-C and SIGTERM the current optimizer step is finished, ``last.ckpt`` is written, and training ends; in the
    last step of an epoch the epoch is finished first. A second signal ends training at once. The resumed run continues
    with the next batch and equals an uninterrupted one, if its loaders save their position (`ResumableLoader`, or any
    with ``state_dict``) and `EpochSeed` saves the random states. Otherwise, and after a kill, it continues from the
    last complete epoch and repeats the unfinished one. Give the trainer
    `lightning_losses.checkpoints.AtomicCheckpoints`, which replaces a checkpoint only by a complete one.

    Several processes agree after each optimizer step, by reducing one number, whether any of them was interrupted, and
    end after the same step. A repeated signal within three seconds counts once, because launchers pass on signals that
    processes have already received. The checkpoint holds the separate state of each process: the positions of its
    loaders, the logged values of the unfinished epoch, and callbacks' states that differ. SLURM's signal for the end of
    a job's time is handled in the same way. Lightning's own reaction (a checkpoint and ``scontrol requeue``) then runs
    after that step, because within it processes would wait for each other forever.

    Args:
        folder: the folder of the checkpoints.
        monitor: the logged metric that decides which epoch is best (larger is better; of equal ones the first); None
            writes no ``best.ckpt``.
        seconds: the least time between two writes of ``last.ckpt`` after epochs, for short epochs; the end is always
            written.
    """

    def __init__(self, folder: str | Path, monitor: str | None = None, seconds: float = 0.0) -> None:
        self.folder = Path(folder)
        self.monitor = monitor
        self.seconds = seconds
        self.best: float | None = None
        self.interruption = Interruption()
        self._written = -math.inf
        self._due = False
        self._epoch_done = False
        self._why_not: str | None = None
        self._mid_epoch = False
        self._logged: dict[str, Any] = {}
        self._metrics: dict[str, float] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a trainer that doesn't write checkpoints and end as this callback requires."""
        refuse_other_lightning("last_checkpoint", trainer)
        go_on_after_whole_epochs(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write a checkpoint at the start, so that there is one if the first epoch is interrupted."""
        # A metric that isn't logged in every epoch keeps its value until it is logged again.
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._metrics.items()})
        self._metrics = {}
        self._epoch_done = False
        if trainer.global_step == 0:
            # An earlier fit's best is another network's.
            self.best = None
            write_on_all(trainer, self.folder / "last.ckpt")
        self._mid_epoch = False
        self._why_not = _why_not(trainer)
        self.interruption.listen(trainer, self._why_not)
        if forks_processes(trainer):
            self.interruption.catch(trainer, lambda exception: self.on_exception(trainer, pl_module, exception))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """If interrupted, end training after this batch, provided that it ends an optimizer step within the epoch."""
        if self._logged:
            add_logged_values(trainer, self._logged)
        if _between_steps(trainer, batch_idx) and self.interruption.came(trainer):
            self._mid_epoch = self._why_not is None
            leave_after_step(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write a checkpoint of the finished epoch."""
        self._epoch_done = True
        if self.monitor is not None and _validated(trainer):
            logged = trainer.callback_metrics
            if self.monitor not in logged:
                raise ValueError(
                    f"LastCheckpoint: nothing was logged as {self.monitor!r}; there are "
                    f"{', '.join(sorted(map(str, logged))) or 'no logged values'}: give one of them as monitor."
                )
            value = float(logged[self.monitor])
            # NaN must not become the best value, because nothing would ever exceed it.
            if not math.isnan(value) and (self.best is None or value > self.best):
                self.best = value
                write_on_all(trainer, self.folder / "best.ckpt")
        interrupted = self.interruption.came(trainer)
        self._due = not interrupted and self._too_soon(trainer)
        if not self._due:
            write_on_all(trainer, self.folder / "last.ckpt")
            self._written = time.monotonic()
        self._epoch_done = False
        self._mid_epoch = False
        self._logged = {}
        if interrupted:
            self.interruption.requeue()
            leave_after_step(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last epoch, if `seconds` delayed it."""
        if self._due:
            write_on_all(trainer, self.folder / "last.ckpt")
        # Nothing more is written after the last epoch.
        self.interruption.came(trainer)
        self.interruption.end(answered=False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write a checkpoint if an interruption caused this end."""
        try:
            if not self.interruption.agreed or not isinstance(exception, SIGTERMException):
                return
            if self._mid_epoch:
                write_on_all(trainer, self.folder / "last.ckpt")
            if self._mid_epoch or self._why_not is not None:
                self.interruption.requeue()
            if trainer.world_size > 1:
                leave_together(trainer, "every process has written its part")
            self.interruption.name_in(exception)
        finally:
            self.interruption.end(answered=True)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the logged values and each process's state of the unfinished epoch; count a finished epoch as done."""
        checkpoint["callback_metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._epoch_done:
            complete_epoch(checkpoint)
        if self._mid_epoch:
            add_process_states(checkpoint, logged_values(trainer))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the logged values and this process's state of the unfinished epoch."""
        self._metrics = checkpoint.get("callback_metrics", {})
        self._logged = take_process_states(checkpoint, trainer)

    def state_dict(self) -> dict[str, float | None]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Restore the best value so far."""
        self.best = state_dict["best"]

    def _too_soon(self, trainer: L.Trainer) -> bool:
        soon = time.monotonic() - self._written < self.seconds
        # The processes' clocks may differ, but either all of them write or none.
        return trainer.strategy.broadcast(soon) if self.seconds > 0 else soon


def _validated(trainer: L.Trainer) -> bool:
    """Whether validation follows this epoch."""
    return (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0


def _why_not(trainer: L.Trainer) -> str | None:
    """The reason why this run can't continue within an epoch, or None."""
    if trainer.overfit_batches > 0:  # type: ignore[attr-defined]
        return "overfit_batches replaces the samples' order"
    for loader in CombinedLoader(trainer.train_dataloader).flattened:
        if not (hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")):
            return f"the training {type(loader).__name__} has no state_dict"
    return None


def _between_steps(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether no gradients are pending, and neither validation nor the epoch's end follows."""
    done, every = batch_idx + 1, trainer.val_check_batch
    total = trainer.fit_loop.total_batch_idx + 1
    validates = every is not None and math.isfinite(every) and 0 in (done % every, total % every)
    return done % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch and not validates
