"""Watches calibration: the metrics and the reliability diagram of each validation epoch."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from lightning_losses.callbacks.access import refuse_unwritable
from lightning_losses.callbacks.calibration.evaluation_logits import EvaluationLogits
from lightning_losses.callbacks.records.figures import publish, publish_table
from lightning_losses.metrics import calibration_summary
from lightning_losses.metrics.bins import check_bins, reliability
from lightning_losses.numerics.checks import check_count
from lightning_losses.plots.reliability_diagram import reliability_diagram


class CalibrationMonitor(Callback):
    """Logs calibration metrics and a reliability diagram each validation epoch, without an extra forward pass.

    It reads ``{"logits", "target"}`` from what `validation_step` returns, gathers them from all processes, every sample
    once, and logs ``val/calibration/<metric>`` for the metrics of `calibration_summary`; checkpoints and early stopping
    can monitor them. The diagram is written as PNG into the folder or beside the logger's files, and sent with its
    table of bins to Weights & Biases.

    Cost: at each validation, the logits of the validation data in host memory, and their metrics.

    Args:
        num_bins: number of bins of the binned errors and the diagram, at least 1.
        every_n_epochs: epochs between two diagrams; the metrics are logged at every validation. 0 draws none.
        folder: the folder of the diagrams, ``val/calibration/epoch_<n>.png``; None: beside the logger's files, if it
            has any.
        ignore_index: the target of ignored samples; None takes the module's `ignore_index`, or that of its losses. A
            validation that keeps no sample logs nothing.

    Raises:
        ValueError: options out of range; when a fit starts, no validation data; already in the sanity check, a
            validation step that returns no logits and target, or ones that don't belong together.
        OSError: when a fit starts, a folder that can't be written to.

    Example:
        >>> CalibrationMonitor(num_bins=10, every_n_epochs=5).num_bins
        10
    """

    def __init__(
        self,
        num_bins: int = 15,
        every_n_epochs: int = 1,
        folder: str | Path | None = None,
        ignore_index: int | None = None,
    ) -> None:
        check_bins("CalibrationMonitor", num_bins)
        check_count("CalibrationMonitor", "every_n_epochs", every_n_epochs, zero="for no diagram")
        self.num_bins = num_bins
        self.every_n_epochs = every_n_epochs
        self.folder = None if folder is None else Path(folder)
        self._collected = EvaluationLogits("CalibrationMonitor", ignore_index=ignore_index)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a fit that has nothing to measure, or whose folder can't be written to."""
        if stage == "fit" and not trainer.enable_validation:
            raise ValueError(
                "CalibrationMonitor: the trainer has no validation data to measure; give a validation data loader, a "
                "validation_step, and limit_val_batches above 0, or leave the callback out."
            )
        if self.folder is not None and self.every_n_epochs:
            refuse_unwritable(trainer, self.folder)

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
        """Log the metrics, and draw."""
        if trainer.sanity_checking:
            return
        found = self._collected.gather(trainer, trainer.val_dataloaders)
        for number, (logits, target) in found.items():
            if len(target) == 0:
                continue
            prefix = "val/calibration" if len(found) == 1 else f"val/calibration/{number}"
            summary = calibration_summary(logits, target, inputs="logits", num_bins=self.num_bins)
            # Every process has the same values, so their mean is the value itself.
            pl_module.log_dict({f"{prefix}/{name}": value.float() for name, value in summary.items()}, sync_dist=True)
            epoch = trainer.current_epoch
            if self.every_n_epochs and epoch % self.every_n_epochs == 0 and trainer.is_global_zero:
                figure = reliability_diagram(
                    logits, target, inputs="logits", num_bins=self.num_bins, title=f"epoch {epoch}"
                )
                publish(trainer, f"{prefix}/reliability", figure, self.folder, file=f"{prefix}/epoch_{epoch}")
                publish_table(
                    trainer,
                    f"{prefix}/bins",
                    ["bin", "samples", "confidence", "accuracy"],
                    [[number, *row] for number, row in enumerate(reliability(logits, target, self.num_bins))],
                )
