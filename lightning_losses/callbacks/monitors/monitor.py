"""The base of monitors: they measure every n steps, keep the values, log and draw them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from lightning_losses.callbacks.access import on_device, refuse_unwritable, step_logits, sum_over_processes
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.numerics.settings import Count
from lightning_losses.plots.style import Figure, save_figure


class Monitor(DeclaredCallback):
    """Base of the monitors: scalars by step, kept in the checkpoint, sent to the loggers, drawn at the end.

    A value at step s belongs to the weights after s optimizer steps. A subclass declares its settings, measures in a
    hook of its choice, calls `record`, and draws in `figure`.

    Args:
        every_n_steps: optimizer steps between measurements, at least 1.
        folder: the folder of the picture ``<name>.png``, drawn when training ends; None draws none.

    Attributes:
        name: the prefix of the logged names.
        steps: the steps of the measurements.
        values: the values at those steps, by name.
    """

    kept: ClassVar[tuple[str, ...]] = ("steps", "values")

    _: KW_ONLY
    every_n_steps: Count = 10
    folder: str | Path | None = None
    steps: list[int] = field(init=False, default_factory=list)
    values: dict[str, list[float]] = field(init=False, default_factory=dict)

    def due(self, step: int) -> bool:
        """Whether to measure at this step; once per step, also if it has several batches."""
        return step % self.every_n_steps == 0 and (not self.steps or self.steps[-1] < step)

    def record(self, trainer: L.Trainer, step: int, values: Mapping[str, float]) -> None:
        """Store and log the values of a step; NaN is stored of a name that this step lacks."""
        self.steps.append(step)
        for name, value in {**dict.fromkeys(self.values, math.nan), **values}.items():
            self.values.setdefault(name, []).append(float(value))
        named = {f"{self.name}/{name}": float(value) for name, value in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, step=step)

    def curves(self) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
        """The measurements as (steps, values) by name; a curve begins when its name first appears."""
        return {name: (self.steps[-len(values) :], values) for name, values in self.values.items()}

    def figure(self) -> Figure:
        """The picture of the measurements."""
        raise NotImplementedError

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check at the start that the picture can be written at the end."""
        if self.folder is not None:
            refuse_unwritable(trainer, Path(self.folder))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, if there is a folder and something to draw."""
        if self.folder is not None and self.steps and trainer.is_global_zero:
            save_figure(self.figure(), Path(self.folder) / f"{self.name}.png")


class LogitMonitor(Monitor):
    """Base of the monitors that average a value over the rows of a training step's logits.

    The step must return ``{"logits", "target", ...}``. All batches of an accumulated step and all processes count, each
    row once; a step whose rows are all ignored records nothing. No forward pass is added: the logits are those of the
    loss.

    Args:
        ignore_index: the target of ignored rows; None takes the module's `ignore_index`, or that of its losses.
        every_n_steps, folder: see `Monitor`.
    """

    _: KW_ONLY
    ignore_index: int | None = None
    _step: int = field(init=False, default=0)
    _sums: Tensor | None = field(init=False, default=None)

    def rows(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The values to average by name, [n] each, one per row."""
        raise NotImplementedError

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget a step that an exception ended."""
        self._sums = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the step of the weights that produce the logits."""
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch's rows; record after the step's last batch."""
        if not self.due(self._step):
            return
        logits, target = step_logits(self.name, pl_module, outputs, self.ignore_index)
        measured = self.rows(logits, target)
        sums = torch.stack([on_device(trainer, value.sum()) for value in measured.values()])
        sums = torch.cat([sums, on_device(trainer, [len(target)])])
        self._sums = sums if self._sums is None else self._sums + sums
        if trainer.global_step > self._step:
            *totals, count = sum_over_processes(trainer, self._sums).tolist()
            self._sums = None
            if count:
                means = {name: total / count for name, total in zip(measured, totals, strict=True)}
                self.record(trainer, self._step, means)


def check_precisions(who: str, precisions: Sequence[str]) -> None:
    """Raise ``ValueError`` unless all are names of floating-point types that softmax can use."""
    known = ("float16", "bfloat16", "float32", "float64")
    if isinstance(precisions, str) or not precisions or any(precision not in known for precision in precisions):
        raise ValueError(f"{who}: precisions={precisions!r} came; give a list of {', '.join(known)}.")
