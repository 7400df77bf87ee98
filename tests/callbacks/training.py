"""A tiny classifier, trained on one process or several with callbacks; hands back its weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from tests.distributed.processes import run_on_processes

Weights = dict[str, Tensor]


def batches(count: int = 6, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(size, 5, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def network() -> nn.Sequential:
    torch.manual_seed(5)
    # 7 rows: not a multiple of two shards.
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.5, momentum=0.9)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.05)


class Tiny(L.LightningModule):
    def __init__(self, optimizer=sgd):
        super().__init__()
        self.network = network()
        self.make_optimizer = optimizer
        self.sharded = False

    def configure_model(self):
        if self.device_mesh is not None and not self.sharded:
            for child in (self.network[0], self.network[2]):
                fully_shard(child, mesh=self.device_mesh["data_parallel"])
            self.sharded = True

    def training_step(self, batch, batch_idx):
        inputs, target = batch
        logits = self.network(inputs)
        return {"loss": F.cross_entropy(logits, target), "logits": logits, "target": target}

    def validation_step(self, batch, batch_idx):
        inputs, target = batch
        logits = self.network(inputs)
        return {"logits": logits, "target": target}

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())


class PerProcess(L.LightningDataModule):
    """Each process its rows of every batch."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def _loader(self):
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return DataLoader([(x[rank::world], y[rank::world]) for x, y in self.data], batch_size=None)

    def train_dataloader(self):
        return self._loader()

    def val_dataloader(self):
        return self._loader()


def trainer(folder: Path, callbacks: list[L.Callback], **options: Any) -> L.Trainer:
    settings = {"max_epochs": 1, "limit_val_batches": 0, "logger": False, "log_every_n_steps": 1, **options}
    return L.Trainer(
        accelerator="cpu", devices=settings.pop("devices", 1), enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False, callbacks=callbacks,
        default_root_dir=folder, **settings,
    )  # fmt: skip


def train(
    folder: Path, make_callbacks: Callable[[], list[L.Callback]], *, strategy: str = "one", optimizer=sgd, data=None,
    ckpt_path=None, save=None, ddp=None, **options: Any,
) -> Weights:  # fmt: skip
    """Train on `data` (6 batches if None), save a checkpoint if asked, and return the weights, whole."""
    path = Path(folder) / "weights.pt"

    def run() -> None:
        chosen: dict[str, Any] = {}
        if strategy == "ddp":
            parallel = DDPStrategy(start_method="popen", process_group_backend="gloo", **(ddp or {}))
            chosen = {"devices": 2, "strategy": parallel}
        elif strategy == "fsdp2":
            parallel = ModelParallelStrategy(
                data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo",
                save_distributed_checkpoint=False,
            )  # fmt: skip
            chosen = {"devices": 2, "strategy": parallel}
        module = Tiny(optimizer)
        fitter = trainer(folder, make_callbacks(), **chosen, **options)
        fitter.fit(module, PerProcess(data or batches()), ckpt_path=ckpt_path)
        if save is not None:
            fitter.save_checkpoint(save)
        found = {name: whole(p).detach().clone() for name, p in module.named_parameters()}
        if fitter.global_rank == 0:
            torch.save(found, path)

    if strategy == "one":
        run()
    else:
        run_on_processes(run, 2)
    return torch.load(path, weights_only=True)


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def assert_close(left: Weights, right: Weights, **tolerance: float) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], **tolerance)


def differs(left: Weights, right: Weights) -> bool:
    return any((left[name] - right[name]).abs().max() > 1e-3 for name in left)
