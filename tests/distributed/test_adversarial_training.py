"""Training on attacked inputs on two processes, under DDP and FSDP2, is that of one process with the whole batch."""

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from lightning_losses import MART, Objective
from lightning_losses.attacks import PGD
from lightning_losses.modules.adversarial_classifier import AdversarialClassifier
from lightning_losses.parallel.fsdp2 import FSDP2Strategy
from tests.callbacks.training import assert_close, batches, whole
from tests.distributed.processes import run_on_processes

pytestmark = pytest.mark.distributed


class Uneven(L.LightningDataModule):
    """The first of two processes has more rows of each batch."""

    def train_dataloader(self):
        given = batches()
        given[1][1][:2] = -100
        shares = {(0, 1): slice(0, 8), (0, 2): slice(0, 5), (1, 2): slice(5, 8)}
        own = shares[self.trainer.global_rank, self.trainer.world_size]
        rows = [{"inputs": x, "target": y, "index": 8 * n + torch.arange(8)} for n, (x, y) in enumerate(given)]
        return DataLoader([{name: one[own] for name, one in batch.items()} for batch in rows], batch_size=None)

    val_dataloader = train_dataloader


def train(folder, strategy):
    def fit():
        chosen = {}
        if strategy == "ddp":
            chosen = {"devices": 2, "strategy": DDPStrategy(start_method="popen", process_group_backend="gloo")}
        elif strategy == "fsdp2":
            chosen = {"devices": 2, "strategy": FSDP2Strategy(process_group_backend="gloo", min_parameters=1)}
        torch.manual_seed(5)
        module = AdversarialClassifier(
            PGD(epsilon=0.2, step_size=0.1, steps=3, bounds=None),
            network=nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)),
            objective=Objective({"mart": MART()}),
            num_classes=3,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.3, momentum=0.9),
        )
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0,
            default_root_dir=folder, accumulate_grad_batches=2, **{"devices": 1, **chosen},
        )  # fmt: skip
        trainer.fit(module, Uneven())
        weights = {name: whole(p).detach().clone() for name, p in module.named_parameters()}
        if trainer.global_rank == 0:
            torch.save(weights, folder / f"{strategy}.pt")

    if strategy == "one":
        fit()
    else:
        run_on_processes(fit, 2)
    return torch.load(folder / f"{strategy}.pt", weights_only=True)


def test_two_processes_are_one(tmp_path):
    one = train(tmp_path, "one")
    for strategy in ("ddp", "fsdp2"):
        assert_close(train(tmp_path, strategy), one, rtol=1e-4, atol=1e-5)
