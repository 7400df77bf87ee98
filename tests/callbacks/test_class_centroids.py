import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import MCMI, CrossEntropy, Objective
from lightning_losses.callbacks.class_centroids import ClassCentroids
from lightning_losses.modules import Classifier

INPUTS, TARGET = torch.randn(8, 4), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]


def fit(refresh, epochs, losses, lr=0.0):
    network = nn.Linear(4, 3)
    module = Classifier(network, Objective(losses), num_classes=3, optimizer=lambda p: torch.optim.SGD(p, lr=lr))
    data = [{"inputs": INPUTS[:5], "target": TARGET[:5]}, {"inputs": INPUTS[5:], "target": TARGET[5:]}]
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ClassCentroids(refresh)],
        limit_val_batches=0,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    return module, trainer


def test_centroids_are_the_mean_predictions_of_the_epoch():
    losses = {"ce": CrossEntropy(), "mcmi": MCMI(num_classes=3)}
    module, trainer = fit("epoch", 1, losses)
    predicted = module.network(INPUTS).softmax(dim=-1)
    expected = torch.stack([predicted[TARGET == 0].mean(0), predicted[TARGET == 1].mean(0), torch.full((3,), 1 / 3)])
    torch.testing.assert_close(losses["mcmi"].centroids, expected.detach())
    assert trainer.callback_metrics["train/cmi"].item() >= 0


def test_once_leaves_them_after_the_first_epoch():
    found = {}
    for refresh, epochs in (("once", 1), ("once", 3), ("epoch", 3)):
        torch.manual_seed(0)
        losses = {"ce": CrossEntropy(), "mcmi": MCMI(num_classes=3)}
        fit(refresh, epochs, losses, lr=0.5)
        found[refresh, epochs] = losses["mcmi"].centroids
    assert torch.equal(found["once", 1], found["once", 3])
    assert not torch.equal(found["once", 3], found["epoch", 3])


def test_a_module_without_the_loss_is_refused():
    with pytest.raises(ValueError, match="^ClassCentroids: Classifier has no MCMI loss"):
        fit("epoch", 1, {"ce": CrossEntropy()})


def test_an_unknown_refresh_is_refused():
    with pytest.raises(ValueError, match="^ClassCentroids: refresh='ema'"):
        ClassCentroids("ema")
