"""Renews the bins and exponents of `AdaFocal` after each validation, from the outputs of the validation step."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from lightning_losses.callbacks.calibration.evaluation_logits import EvaluationLogits
from lightning_losses.losses.confidence.adafocal import AdaFocal


class AdaFocalBins(Callback):
    """Renews every `AdaFocal` of a module after each validation within a fit, without an extra forward pass.

    It reads ``{"logits", "target"}`` from what `validation_step` returns for the first validation data loader, and
    gathers them from all processes, every sample once. So the exponents are equal on all processes. It logs the largest
    and the smallest exponent as ``val/adafocal/gamma_max`` and ``val/adafocal/gamma_min``.

    Raises:
        ValueError: when the fit begins, a module without an `AdaFocal` or a trainer without validation; a validation
            step that returns no logits and target.

    Example:
        >>> AdaFocalBins().state_key
        'AdaFocalBins'
    """

    def __init__(self) -> None:
        self._collected = EvaluationLogits("AdaFocalBins")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that there is something to renew."""
        if not _losses(pl_module):
            raise ValueError(
                f"AdaFocalBins: {type(pl_module).__name__} has no AdaFocal loss; use objective=adafocal, or leave this "
                "callback out."
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a fit without validation data: the exponents would stay as they are."""
        if not trainer.enable_validation:
            raise ValueError(
                "AdaFocalBins: the trainer has no validation data to measure; give a validation data loader, and "
                "limit_val_batches above 0."
            )

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
        if _fitting(trainer) and dataloader_idx == 0:
            self._collected.add(pl_module, outputs)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Renew bins and exponents."""
        if not _fitting(trainer):
            return
        found = self._collected.gather(trainer, trainer.val_dataloaders).get(0)
        for loss in _losses(pl_module):
            # If all samples are ignored, every exponent stays as it is.
            if found is not None and len(found.target) > 0:
                confidence, prediction = found.logits.softmax(dim=-1).max(dim=-1)
                loss.renew(confidence, (prediction == found.target).to(confidence))
            extremes = {"gamma_max": loss.gammas.max(), "gamma_min": loss.gammas.min()}
            # Every process has the same values, so their mean is the value itself.
            pl_module.log_dict({f"val/adafocal/{name}": value for name, value in extremes.items()}, sync_dist=True)


def _fitting(trainer: L.Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def _losses(module: L.LightningModule) -> list[AdaFocal]:
    return [loss for loss in module.modules() if isinstance(loss, AdaFocal)]
