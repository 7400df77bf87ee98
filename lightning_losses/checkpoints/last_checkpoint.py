"""Leaves a checkpoint at the start, after every epoch and when interrupted, from which a run continues exactly."""

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
        self.interruption = Interruption()
        self._written = -math.inf
        self._due = False
        self._epoch_done = False
        self._why_not: str | None = None
        self._mid_epoch = False
        self._logged: dict[str, Any] = {}
        self._metrics: dict[str, float] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a trainer that would not write and leave as this callback counts on."""
        refuse_other_lightning("last_checkpoint", trainer)
        go_on_after_whole_epochs(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the start, so that also an interruption of the first epoch leaves a checkpoint."""
        # A metric that isn't logged in every epoch stays until it is logged again.
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._metrics.items()})
        self._metrics = {}
        if trainer.global_step == 0:
            write_on_all(trainer, self.folder / "last.ckpt")
        self._mid_epoch = False
        self._why_not = _why_not(trainer)
        self.interruption.listen(trainer, self._why_not)
        if forks_processes(trainer):
            self.interruption.catch(trainer, lambda exception: self.on_exception(trainer, pl_module, exception))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """If interrupted, and this ends an optimizer step within the epoch, have the training end after it."""
        if self._logged:
            add_logged_values(trainer, self._logged)
        if _between_steps(trainer, batch_idx) and self.interruption.came(trainer):
            self._mid_epoch = self._why_not is None
            leave_after_step(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch that is done."""
        self._epoch_done = True
        if self.monitor is not None and _validated(trainer):
            logged = trainer.callback_metrics
            if self.monitor not in logged:
                raise ValueError(
                    f"LastCheckpoint: nothing was logged as {self.monitor!r}; there are "
                    f"{', '.join(sorted(map(str, logged))) or 'no logged values'}: give one of them as monitor."
                )
            value = float(logged[self.monitor])
            # NaN is no best: nothing would ever be above it.
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
        """Write the last epoch, if its time had not come."""
        if self._due:
            write_on_all(trainer, self.folder / "last.ckpt")
        # After the last epoch was written there is nothing left to wait for.
        self.interruption.came(trainer)
        self.interruption.end(answered=False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the moment, if this is the end that an interruption asked for."""
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
        """Save what was logged by now, and what each process has of the begun epoch; the one that is done, as done."""
        checkpoint["callback_metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._epoch_done:
            complete_epoch(checkpoint)
        if self._mid_epoch:
            add_process_states(checkpoint, logged_values(trainer))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take what was logged by then, and what this process had of the begun epoch."""
        self._metrics = checkpoint.get("callback_metrics", {})
        self._logged = take_process_states(checkpoint, trainer)

    def state_dict(self) -> dict[str, float | None]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Go on comparing with the best value so far."""
        self.best = state_dict["best"]

    def _too_soon(self, trainer: L.Trainer) -> bool:
        soon = time.monotonic() - self._written < self.seconds
        # The processes' clocks may differ, and all of them write or none.
        return trainer.strategy.broadcast(soon) if self.seconds > 0 else soon


def _validated(trainer: L.Trainer) -> bool:
    """Whether this epoch is one of those that validation follows."""
    return (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0


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
