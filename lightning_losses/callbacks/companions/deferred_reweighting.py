"""Lets the weights of classes wait until the features are learned."""

import lightning as L

from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.losses.kinds import ClassWeightedLoss
from lightning_losses.numerics.settings import Count


class DeferredReweighting(DeclaredCallback):
    """Has the class weights of every loss of a module count from an epoch on; before, all classes weigh 1.

    Of `ClassBalanced`, `LDAM` with its β, and `CrossEntropy` with `class_weight`. The epoch alone decides, so that a
    resumed run goes on as an uninterrupted one. A module without such a loss is left alone: a run's callbacks also see
    its teacher train.

    Args:
        start_epoch: the first epoch, counted from 0, whose steps are weighted; at least 1.

    Source:
        Cao, Wei, Gaidon, Arechiga, Ma, 2019, arXiv:1906.07413, and its code, kaidic/LDAM-DRW: epoch 160 of 200, where
        the learning rate falls too.

    Example:
        >>> DeferredReweighting(start_epoch=160).start_epoch
        160
    """

    name = "DeferredReweighting"

    start_epoch: Count

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Have the weights wait, or count where a resumed run is past that."""
        self._set(pl_module, trainer.current_epoch)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same, epoch by epoch."""
        self._set(pl_module, trainer.current_epoch)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave every loss as it was built."""
        self._set(pl_module, self.start_epoch)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """The same, where training ends in an error or is interrupted."""
        self._set(pl_module, self.start_epoch)

    def _set(self, module: L.LightningModule, epoch: int) -> None:
        for loss in module.modules():
            if isinstance(loss, ClassWeightedLoss):
                loss.reweights = epoch >= self.start_epoch
