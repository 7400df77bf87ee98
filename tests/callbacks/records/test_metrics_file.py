import json

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_losses.callbacks import MetricsFile
from lightning_losses.callbacks.records.metrics_file import append_metrics, last_metric, read_metrics


class Counter(L.LightningModule):
    """Logs its epoch, and a loss that is not finite in the first."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        self.log("train/epoch", float(self.current_epoch), on_step=False, on_epoch=True)
        self.log("train/odd", float("nan") if self.current_epoch == 0 else 1.0, on_step=False, on_epoch=True)
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(path, epochs, checkpoint=None):
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[MetricsFile(path)],
    )
    trainer.fit(Counter(), DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=2), ckpt_path=checkpoint)
    return trainer


def test_each_epoch_is_a_line_and_what_is_not_finite_is_null(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    fit(path, 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"epoch": 0, "step": 2, "train/epoch": 0.0, "train/odd": None},
        {"epoch": 1, "step": 4, "train/epoch": 1.0, "train/odd": 1.0},
    ]
    fit(path, 1)
    assert len(read_metrics(path)) == 1


def test_a_run_that_continues_keeps_the_lines_of_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    fit(path, 2).save_checkpoint(tmp_path / "last.ckpt")
    # An epoch that was begun, and written, after the checkpoint.
    append_metrics(path, {"epoch": 2, "train/epoch": 99.0})
    fit(path, 4, checkpoint=tmp_path / "last.ckpt")
    assert [line["train/epoch"] for line in read_metrics(path)] == [0.0, 1.0, 2.0, 3.0]


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, {"loss": 1.0, "finished": True})
    with path.open("a") as stream:
        stream.write('{"loss": 2')
    assert read_metrics(path) == [{"loss": 1.0, "finished": True}]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_the_last_finite_value_of_a_metric(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, {"loss": 1.0, "ece": float("inf")})
    append_metrics(path, {"loss": 3.0})
    append_metrics(path, {"loss": float("nan")})
    assert last_metric(path, "loss") == 3.0
    with pytest.raises(ValueError, match="the run reported no ece; it reported loss"):
        last_metric(path, "ece")
