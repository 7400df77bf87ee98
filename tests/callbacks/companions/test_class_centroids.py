import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import MCMI, CrossEntropy, Objective, Term
from lightning_losses.callbacks.companions.class_centroids import ClassCentroids
from lightning_losses.modules import Classifier

INPUTS, TARGET = torch.randn(8, 4), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]


def fit(refresh, epochs, losses, lr=0.0, **options):
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
        **options,
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


def test_once_takes_them_from_the_network_as_it_comes():
    found = {}
    torch.manual_seed(0)
    before = nn.Linear(4, 3)(INPUTS).softmax(dim=-1).detach()
    for refresh, epochs in (("once", 1), ("once", 3), ("epoch", 3)):
        torch.manual_seed(0)
        losses = {"ce": CrossEntropy(), "mcmi": MCMI(num_classes=3)}
        fit(refresh, epochs, losses, lr=0.5)
        found[refresh, epochs] = losses["mcmi"].centroids
    expected = torch.stack([before[TARGET == 0].mean(0), before[TARGET == 1].mean(0), torch.full((3,), 1 / 3)])
    torch.testing.assert_close(found["once", 1], expected)
    assert torch.equal(found["once", 1], found["once", 3])
    assert not torch.equal(found["once", 3], found["epoch", 3])


def test_ema_moves_them_towards_every_batch():
    losses = {"ce": CrossEntropy(), "mcmi": MCMI(num_classes=3)}
    module, _ = fit("ema", 1, losses)
    predicted = module.network(INPUTS).softmax(dim=-1).detach()
    expected = torch.stack([predicted[TARGET == 0].mean(0), predicted[TARGET == 1].mean(0), torch.full((3,), 1 / 3)])
    for rows in (slice(0, 5), slice(5, 8)):
        for number in (0, 1):
            mean = predicted[rows][TARGET[rows] == number].mean(0)
            expected[number] = 0.9999 * expected[number] + 0.0001 * mean
    torch.testing.assert_close(losses["mcmi"].centroids, expected)


def test_a_module_without_the_loss_is_left_alone():
    _, trainer = fit("epoch", 1, {"ce": CrossEntropy()})
    assert "train/cmi" not in trainer.callback_metrics and trainer.global_step == 2


def test_a_teacher_that_is_trained_on_tells_more_of_its_samples():
    # A larger weight raises the information.
    information = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        losses = {"ce": CrossEntropy(), "mcmi": Term(MCMI(num_classes=3), weight)}
        _, trainer = fit("once", 20, losses, lr=0.3)
        information[weight] = trainer.callback_metrics["train/cmi"].item()
    assert information[1.0] > information[0.0] + 0.05


def test_an_unknown_refresh_is_refused():
    with pytest.raises(ValueError, match="^ClassCentroids: refresh='never'"):
        ClassCentroids("never")


def test_a_prediction_that_is_not_finite_spoils_no_centroid():
    module = Classifier(nn.Linear(4, 3), Objective({"mcmi": MCMI(num_classes=3)}), num_classes=3)
    module.log_dict = lambda *arguments, **options: None
    logits = torch.tensor([[2.0, 0.0, 0.0], [torch.nan, 0.0, 0.0], [0.0, 1.0, -torch.inf]])
    centroids = ClassCentroids()
    outputs = {"logits": logits, "target": torch.tensor([0, 0, 1])}
    centroids.on_train_batch_end(None, module, outputs, None, 0)
    assert centroids._counts.tolist() == [1, 1, 0]
    torch.testing.assert_close(centroids._sums[:2], logits[[0, 2]].softmax(dim=-1))


def test_inputs_come_in_the_precision_of_the_run():
    losses = {"mcmi": MCMI(num_classes=3)}
    module, _ = fit("once", 1, losses, precision="64-true")
    expected = module.network(INPUTS[TARGET == 1].double()).softmax(dim=-1).mean(dim=0)
    torch.testing.assert_close(losses["mcmi"].centroids[1], expected.detach(), rtol=1e-6, atol=0)
