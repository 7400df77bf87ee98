"""Runs one training step on one process and on several, and hands back values and gradients."""

import multiprocessing
import multiprocessing.connection
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard


def run_on_processes(function: Callable[..., None], processes: int, *arguments: object) -> None:
    """Run `function(*arguments)` on forked processes in torchrun's environment; raise what any of them raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    errors = context.SimpleQueue()
    workers = [
        context.Process(target=_member, args=(rank, processes, port, errors, function, arguments))
        for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 120
    # The first that fails leaves the others waiting for it.
    while time.monotonic() < deadline and any(w.is_alive() for w in workers) and not any(w.exitcode for w in workers):
        multiprocessing.connection.wait([worker.sentinel for worker in workers if worker.is_alive()], timeout=1)
    failed = [worker for worker in workers if worker.exitcode != 0]
    for worker in workers:
        worker.kill()
    if failed:
        raise AssertionError("a process failed: " + (errors.get() if not errors.empty() else "it hung or died"))


def in_group(function: Callable[..., None], *arguments: object) -> None:
    """Run `function(*arguments)` inside a gloo process group of the environment's processes."""
    dist.init_process_group("gloo")
    function(*arguments)
    # The first process holds the group's store: it stays until all are done.
    dist.barrier()
    dist.destroy_process_group()


def _member(rank, processes, port, errors, function, arguments):
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0",
        WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes), TORCHELASTIC_RUN_ID="tests",
    )  # fmt: skip
    # Read when Lightning was imported, before there was a rank.
    rank_zero_only.rank = rank
    try:
        function(*arguments)
    except BaseException as error:
        errors.put(f"{type(error).__name__}: {error}")
        raise


class Recorder(L.Callback):
    """Writes the first step's loss and full gradients to a file on the first process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_after_backward(self, trainer, module):
        gradients = {name: _whole(p.grad) for name, p in module.named_parameters() if p.grad is not None}
        self.gradients = {name: gradient.clone() for name, gradient in gradients.items()}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        losses = trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")
        if trainer.global_rank == 0:
            torch.save({"loss": losses, "gradients": self.gradients}, self.path)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class Sharded:
    """Turns a LightningModule class into one that FSDP2 shards."""

    def configure_model(self):
        super().configure_model()
        if self.device_mesh is None or getattr(self, "_sharded", False):
            return
        mesh = self.device_mesh["data_parallel"]
        for child in self.network:
            if isinstance(child, nn.Linear):
                fully_shard(child, mesh=mesh)
        if any(True for _ in self.objective.parameters()):
            fully_shard(self.objective, mesh=mesh)
        self._sharded = True


def one_step(
    make_module: Callable[[], L.LightningModule],
    shards: list[list[dict[str, Tensor]]],
    folder: Path,
    strategy: str = "ddp",
    precision: str = "32-true",
    accumulate: int = 1,
) -> dict[str, Tensor | dict[str, Tensor]]:
    """Train for one optimizer step with `shards[rank]` as the batches of each process; return loss and gradients."""
    path = Path(folder) / f"{strategy}_{len(shards)}_{precision}.pt"

    def train() -> None:
        module = make_module()
        options = {}
        if len(shards) > 1:
            if strategy == "ddp":
                chosen = DDPStrategy(start_method="fork", process_group_backend="gloo")
            else:
                chosen = ModelParallelStrategy(
                    data_parallel_size=len(shards), tensor_parallel_size=1, process_group_backend="gloo"
                )
            options = {"strategy": chosen}
        trainer = L.Trainer(
            accelerator="cpu", devices=len(shards), max_steps=1, max_epochs=1, logger=False, enable_progress_bar=False,
            enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False, precision=precision,
            accumulate_grad_batches=accumulate, callbacks=[Recorder(path)], default_root_dir=folder,
            limit_val_batches=0, **options,
        )  # fmt: skip
        trainer.fit(module, _Shards(shards))

    # ddp_fork starts its own processes; FSDP2's strategy would run the whole script again, so it gets them from here.
    if len(shards) > 1 and strategy != "ddp":
        run_on_processes(train, len(shards))
    else:
        train()
    return torch.load(path, weights_only=True)


class _Shards(L.LightningDataModule):
    def __init__(self, shards):
        super().__init__()
        self.shards = shards

    def train_dataloader(self):
        batches = self.shards[self.trainer.global_rank]
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def val_dataloader(self):
        return self.train_dataloader()
