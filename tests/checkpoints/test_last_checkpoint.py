"""Which epoch is the best one, also after a resumption."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_losses.checkpoints.last_checkpoint import LastCheckpoint


class Scored(L.LightningModule):
    """Each epoch has a score that was chosen before."""

    def __init__(self, scores):
        super().__init__()
        self.layer, self.scores = torch.nn.Linear(1, 1), scores

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def on_train_epoch_end(self):
        self.log("score", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


NAN = float("nan")


def fit(folder, scores, epochs, accumulate=1, path=None):
    return trained(folder, LastCheckpoint(folder, monitor="score"), scores, epochs, accumulate, path)


def trained(folder, callback, scores, epochs, accumulate=1, path=None):
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[callback], default_root_dir=folder, accumulate_grad_batches=accumulate,
    )  # fmt: skip
    trainer.fit(Scored(scores), DataLoader(torch.ones(3, 1)), ckpt_path=path, weights_only=True)
    return callback


def best(folder):
    return torch.load(folder / "best.ckpt", weights_only=True)["epoch"]


@pytest.mark.parametrize(
    ("scores", "epoch"), [([0.1, 0.7, 0.7], 1), ([0.7, 0.1, 0.2], 0), ([0.1, 0.2, 0.3], 2), ([NAN, 0.2, NAN], 1)]
)
def test_the_best_is_the_first_of_the_largest_and_never_nan(tmp_path, scores, epoch):
    assert fit(tmp_path, scores, 3).best == pytest.approx(scores[epoch])
    assert best(tmp_path) == epoch


def test_a_monitor_that_nothing_logs_is_told_what_there_is(tmp_path):
    callback = LastCheckpoint(tmp_path, monitor="val/accuracy")
    with pytest.raises(ValueError, match="nothing was logged as 'val/accuracy'; there are score: give one of them"):
        trained(tmp_path, callback, [0.1], 1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_training_goes_on_comparing_with_the_best(tmp_path, accumulate):
    scores = [0.1, 0.9, 0.5, 0.95]
    fit(tmp_path, scores, 2, accumulate)
    assert fit(tmp_path, scores, 3, accumulate, tmp_path / "last.ckpt").best == pytest.approx(0.9)
    assert best(tmp_path) == 1
    fit(tmp_path, scores, 4, accumulate, tmp_path / "last.ckpt")
    assert best(tmp_path) == 3


def test_the_best_of_another_network_is_none_of_this_one(tmp_path):
    callback = LastCheckpoint(tmp_path, monitor="score")
    trained(tmp_path, callback, [0.1, 0.9], 2)
    trained(tmp_path, callback, [0.5], 1)
    assert callback.best == pytest.approx(0.5) and best(tmp_path) == 0
