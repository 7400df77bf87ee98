"""A tiny overconfident classifier with validation and test data, trained on one process or several."""

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.distributed.processes import run_on_processes

ROWS = {"train": 32, "val": 101, "test": 75}


def data(part):
    generator = torch.Generator().manual_seed(sorted(ROWS).index(part))
    inputs = torch.randn(ROWS[part], 4, generator=generator)
    noisy = inputs[:, :3] + torch.randn(ROWS[part], 3, generator=generator)
    return inputs, noisy.argmax(-1)


class Overconfident(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
        with torch.no_grad():
            self.network[0].weight.copy_(8 * torch.eye(4)[:3])
        self.forwards = 0

    def forward(self, inputs):
        self.forwards += 1
        return self.network(inputs)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        # The first epoch is the best one.
        self.log("val/loss", float(self.current_epoch), batch_size=len(logits), sync_dist=True)
        return {"logits": logits, "target": batch[1]}

    def test_step(self, batch, batch_idx):
        return {"logits": self(batch[0]), "target": batch[1]}

    predict_step = test_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Data(L.LightningDataModule):
    def loader(self, part):
        return DataLoader(TensorDataset(*data(part)), batch_size=16)

    def train_dataloader(self):
        return self.loader("train")

    def val_dataloader(self):
        return self.loader("val")

    def test_dataloader(self):
        return self.loader("test")


def trainer(folder, *callbacks, **options):
    settings = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, **options}
    return L.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=list(callbacks),
        default_root_dir=folder,
        **{"devices": 1, **settings},
    )


def on_processes(function, processes=2):
    """Run `function(strategy options)` on one process here, or on several."""
    if processes == 1:
        function({})
    else:
        strategy = {"devices": processes, "strategy": DDPStrategy(start_method="popen", process_group_backend="gloo")}
        run_on_processes(function, processes, strategy)
