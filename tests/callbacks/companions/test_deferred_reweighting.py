from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses import ClassBalanced, Objective
from lightning_losses.callbacks.companions.deferred_reweighting import DeferredReweighting
from lightning_losses.modules import Classifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
]
DATA = TensorDataset(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))


class Noted(L.Callback):
    """Whether the weights count, step by step; it saves a checkpoint after each."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(pl_module.objective.terms["loss"].loss.reweights)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def fit(folder, ckpt_path=None):
    """Two steps an epoch, three epochs."""
    noted, loss = Noted(folder), ClassBalanced([3, 1], beta=0.9)
    module = Classifier(nn.Linear(2, 2), Objective({"loss": loss}), num_classes=2)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=3,
        enable_model_summary=False, limit_val_batches=0, callbacks=[DeferredReweighting(2), noted],
    )  # fmt: skip
    trainer.fit(module, DataLoader(DATA, 2), ckpt_path=ckpt_path)
    assert loss.reweights
    return noted.seen


def test_the_weights_wait_for_their_epoch_also_in_a_resumed_run(tmp_path):
    whole = fit(tmp_path)
    assert whole == [False, False, False, False, True, True]
    for done in (3, 5):
        assert fit(tmp_path / "again", tmp_path / f"{done}.ckpt") == whole[done:]


def test_a_training_that_fails_leaves_the_weights_as_they_were():
    loss, callback = ClassBalanced([3, 1], beta=0.9), DeferredReweighting(2)
    callback.on_train_epoch_start(SimpleNamespace(current_epoch=0), loss)
    assert not loss.reweights
    callback.on_exception(None, loss, KeyboardInterrupt())
    assert loss.reweights


def test_an_epoch_below_1_is_refused():
    with pytest.raises(ValueError) as raised:
        DeferredReweighting(0)
    assert str(raised.value) == "DeferredReweighting: start_epoch=0 came; give a whole number of at least 1."
