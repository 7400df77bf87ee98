"""Watches the accuracy of classes with many, with a medium number and with few training samples."""

from dataclasses import field
from typing import Any

import lightning as L

from lightning_losses.callbacks.calibration.evaluation_logits import EvaluationLogits
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.losses.class_prior import ClassCounts, ClassPrior
from lightning_losses.metrics.shot_accuracy import check_limits, shot_accuracy
from lightning_losses.metrics.subgroup_accuracy import balanced_accuracy
from lightning_losses.numerics.settings import NonNegative
from lightning_losses.plots.grokking import fraction_curves
from lightning_losses.plots.style import Figure


class ShotAccuracyMonitor(Monitor):
    """Logs the validation accuracy of classes with many, medium and few training samples, and their balanced accuracy.

    It reads ``{"logits", "target"}`` from what `validation_step` returns and gathers them from all processes, every
    sample once. A group without validation samples is left out. The callback `ClassCounts` tells it the training
    samples of each class.

    Cost: at each validation, the logits of the validation data in host memory.

    Args:
        many: classes with more training samples than this have many.
        few: classes with fewer training samples than this have few; at most `many`.
        class_counts: [C] training samples of each class; None where `ClassCounts` counts them.
        ignore_index: the target of ignored samples; None takes the module's `ignore_index`, or that of its losses.
        folder: see `Monitor`.

    Raises:
        ValueError: options out of range; when a validation ends, no class counts, or those of another number of
            classes; in the sanity check, a validation step that returns no logits and target.

    Source:
        Liu, Miao, Zhan, Wang, Gong, Yu, 2019, "Large-Scale Long-Tailed Recognition in an Open World", arXiv:1904.05160.

    Example:
        >>> ShotAccuracyMonitor(many=200).few
        20
    """

    name = "shot_accuracy"

    many: NonNegative = 100
    few: NonNegative = 20
    class_counts: ClassCounts | None = None
    ignore_index: int | None = field(default=None, kw_only=True)
    # Measures at each validation.
    every_n_steps: int = field(init=False, default=1)
    class_prior: ClassPrior = field(init=False)
    _collected: EvaluationLogits = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_limits(self.name, self.many, self.few)
        self.class_prior = ClassPrior(self.name, self.class_counts)
        self._collected = EvaluationLogits(self.name, ignore_index=self.ignore_index)

    def rehearse(self, module: L.LightningModule, batch: Any, outputs: Any) -> None:
        """Refuse a validation step whose output can't be measured."""
        self._collected.read(module, outputs)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self._collected.clear()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect what the step returned."""
        self._collected.add(pl_module, outputs, dataloader_idx)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, once for the same weights."""
        if trainer.sanity_checking or not self.due(trainer.global_step):
            return
        values: dict[str, float] = {}
        evaluated = self._collected.gather(trainer, trainer.val_dataloaders)
        for number, (logits, target) in evaluated.items():
            if len(target) == 0:
                continue
            # Refuses unknown counts, and those of another number of classes.
            self.class_prior.smoothed(logits.shape[-1])
            predicted = logits.argmax(dim=-1)
            groups = shot_accuracy(predicted, target, self.class_prior.counts, many=self.many, few=self.few)
            measured = {**groups._asdict(), "balanced": balanced_accuracy(predicted, target, logits.shape[-1])}
            prefix = "" if len(evaluated) == 1 else f"{number}/"
            values |= {f"{prefix}{name}": value.item() for name, value in measured.items() if not value.isnan()}
        if values:
            self.record(trainer, trainer.global_step, values)

    def figure(self) -> Figure:
        """The accuracies over steps."""
        return fraction_curves(self.curves(), ylabel="validation accuracy (%)", highlight="balanced")
