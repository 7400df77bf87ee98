"""Finds when a network memorised, when it generalised, and the number of steps between."""

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from torch import Tensor

from lightning_losses.callbacks.access import on_device, step_logits, sum_over_processes
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.mixins.objective import ObjectiveMixin
from lightning_losses.numerics.rows import labelled_rows
from lightning_losses.numerics.settings import Count
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.plots.grokking import Curve, grokking_curves
from lightning_losses.plots.style import Figure

Measure = Literal["accuracy", "loss"]


class Delay(NamedTuple):
    """The steps of memorisation and generalisation; NaN for an event that did not occur."""

    memorised: float
    generalised: float

    @property
    def delay(self) -> float:
        """Steps from memorisation to generalisation; NaN until both have occurred."""
        return self.generalised - self.memorised

    @property
    def ratio(self) -> float:
        """Steps to generalisation / steps to memorisation; NaN until both have occurred, or if step 0 memorised."""
        return self.generalised / self.memorised if self.memorised > 0 else math.nan


def first_held(steps: list[int], reached: list[bool], patience: int = 1) -> float:
    """The first of `patience` evaluations in a row that reached a threshold; NaN if there is none.

    Example:
        >>> first_held([0, 10, 20, 30, 40], [False, True, False, True, True], patience=2)
        30.0
    """
    held = 0
    for position, good in enumerate(reached):
        held = held + 1 if good else 0
        if held == patience:
            return float(steps[position - patience + 1])
    return math.nan


class GrokkingMonitor(Monitor):
    """Follows training and validation until the network has memorised and generalised.

    The validation value is the metric `val_metric` of each validation. The training value is the mean over the training
    batches that follow it; the first of them has the same weights as the validation. On a full-batch task both values
    are thus exact, at the same weights, and cost nothing beyond the trainer's own validations
    (`Trainer(val_check_interval=...)` sets how often).

    Logs ``grokking/train``, ``grokking/val``, and ``grokking/memorised``, ``generalised``, ``delay``, ``ratio`` as soon
    as they exist. An event that did not occur is NaN, never a number of steps.

    Cost: the accuracy or the loss of the outputs of `train_batches` steps after each validation; no forward pass.

    Args:
        measure: "accuracy" of the step's logits, or the step's "loss" (smaller is better).
        memorised: the training threshold.
        generalised: the validation threshold.
        patience: number of consecutive evaluations that must reach the threshold; the event is at the first of them.
        val_metric: the metric that the module logs in validation; ``val/<measure>`` if None.
        train_batches: number of batches after each validation that the training value averages over.
        ignore_index: the target of ignored rows; None takes the module's `ignore_index`, or that of its losses.
        folder: the folder of the picture ``grokking.png``, drawn when training ends; None draws none.

    Attributes:
        train, val: ``(step, value)`` pairs.

    Raises:
        ValueError: a patience or number of batches below 1; a validation that does not log the metric.

    Example:
        >>> monitor = GrokkingMonitor(patience=2)
        >>> monitor.delay().generalised
        nan
    """

    name = "grokking"
    # The curves, and the unfinished part of the current evaluation.
    kept = ("train", "val", "_pending", "_at", "_sum", "_count")

    measure: Measure = "accuracy"
    memorised: float = 0.99
    generalised: float = 0.99
    patience: Count = 1
    val_metric: str | None = None
    train_batches: Count = 1
    ignore_index: int | None = field(default=None, kw_only=True)
    # Counts validations, not steps.
    every_n_steps: int = field(init=False, default=1)
    train: list[tuple[int, float]] = field(init=False, default_factory=list)
    val: list[tuple[int, float]] = field(init=False, default_factory=list)
    _without_target: bool = field(init=False, default=False)
    _at: int = field(init=False, default=0)
    _sum: float = field(init=False, default=0.0)
    _count: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.val_metric = self.val_metric or f"val/{self.measure}"
        self._pending = self.train_batches

    def delay(self) -> Delay:
        """The delay so far."""
        return Delay(self._held(self.train, self.memorised), self._held(self.val, self.generalised))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a fit without validation, in which no network is seen to generalise."""
        if not trainer.enable_validation:
            raise ValueError(
                "grokking: the trainer has no validation data to measure; give a validation data loader, a "
                "validation_step, and limit_val_batches above 0."
            )

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self._without_target = False

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note data without a target, for which a validation logs nothing."""
        target = outputs.get("target") if isinstance(outputs, Mapping) else None
        if isinstance(target, Tensor) and target.ndim and (batch_idx == dataloader_idx == 0 or self._without_target):
            kept = labelled_rows(target, *ignored_targets(pl_module, self.ignore_index))
            self._without_target = not bool(kept.any())
        else:
            self._without_target = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the validation value, and begin the training value."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._pending, self._at, self._sum, self._count = self.train_batches, trainer.global_step, 0.0, 0.0
        if self.val_metric not in trainer.callback_metrics:
            if self._without_target:
                return
            raise ValueError(
                f"grokking: validation logged {', '.join(sorted(trainer.callback_metrics)) or 'nothing'}, not "
                f"{self.val_metric!r}; log it, or give val_metric."
            )
        value = float(trainer.callback_metrics[self.val_metric])
        self.val.append((trainer.global_step, value))
        self._log(trainer, "val", value, trainer.global_step)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the training value of the first batches after a validation, and of the first batches of the fit."""
        if self._pending == 0:
            return
        logits, target = step_logits(self.name, pl_module, outputs, self.ignore_index)
        if self.measure == "accuracy":
            hits_all, count_all = self._totals(trainer, (logits.argmax(dim=-1) == target).sum(), len(target))
        else:
            # Lightning has divided the loss by the number of accumulated batches.
            loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
            hits_all, count_all = self._totals(trainer, *_weighed(pl_module, trainer, loss, len(target)))
        self._sum, self._count = self._sum + hits_all, self._count + count_all
        self._pending -= 1
        if self._pending == 0 and self._count:
            value = self._sum / self._count
            self.train.append((self._at, value))
            self._log(trainer, "train", value, self._at)

    def figure(self) -> Figure:
        """Training and validation over logarithmic steps, with the delay between the two thresholds."""
        return grokking_curves(
            [
                Curve("train", *_columns(self.train), role="train"),
                Curve("validation", *_columns(self.val), role="test"),
            ],
            measure=self.measure,
            delay=self.delay(),
        )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, if there is a folder and something to draw."""
        self.steps = [step for step, _ in self.val]
        super().on_fit_end(trainer, pl_module)

    def _events(self) -> dict[str, float]:
        delay = self.delay()
        events = {
            "memorised": delay.memorised,
            "generalised": delay.generalised,
            "delay": delay.delay,
            "ratio": delay.ratio,
        }
        return {name: value for name, value in events.items() if not math.isnan(value)}

    def _held(self, curve: list[tuple[int, float]], threshold: float) -> float:
        steps, values = _columns(curve)
        reached = [value >= threshold if self.measure == "accuracy" else value <= threshold for value in values]
        return first_held(steps, reached, self.patience)

    def _log(self, trainer: L.Trainer, name: str, value: float, step: int) -> None:
        if trainer.loggers:
            values = {f"{self.name}/{event}": at for event, at in {name: value, **self._events()}.items()}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)

    def _totals(self, trainer: L.Trainer, hits: Tensor, count: Tensor | int) -> tuple[float, float]:
        """The sums over all processes."""
        if trainer.world_size == 1:
            return float(hits), float(count)
        sums = torch.stack([on_device(trainer, hits), on_device(trainer, count)])
        hits_all, count_all = sum_over_processes(trainer, sums).tolist()
        return hits_all, count_all


def _weighed(module: L.LightningModule, trainer: L.Trainer, loss: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """A step's loss times its number of kept samples, and that number, to be summed over the processes."""
    kept = on_device(trainer, samples)
    if isinstance(module, ObjectiveMixin) and module.gather_batches:
        # The mean over processes is already that of all samples, so all processes weigh alike.
        kept = sum_over_processes(trainer, kept) / trainer.world_size
    # A mean over no samples (NaN from torch's losses) counts for nothing.
    return torch.where(kept > 0, loss * kept, 0.0), kept


def _columns(curve: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]
