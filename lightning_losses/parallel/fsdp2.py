"""A strategy for FSDP2 for modules that don't shard themselves."""

import functools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.optim import Optimizer

from lightning_losses.environment.lightning_internals import (
    note_device,
    reduce_on_both_by_default,
    share_data_by_default,
    writes_shards,
)
from lightning_losses.numerics.checks import check_choice
from lightning_losses.parallel.blocks import blocks_of
from lightning_losses.parallel.processes import refuse_unknown_shapes, told_by_any, values_on_first, world_size
from lightning_losses.parallel.sharded_folders import check_folder, digests_of, previous_name, write_digests
from lightning_losses.parallel.sharding import is_sharded, refusal, shard_children

# Key in a checkpoint: the numbers of the optimizers that have not stepped yet.
_FRESH = "fresh_optimizers"
TeacherPlacement = Literal["replicated", "sharded"]


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's `ModelParallelStrategy` with the sharding, which that class leaves to the module.

    Every child of the LightningModule that has parameters (the network, an objective whose losses learn, a peer) is
    sharded over all processes, and the blocks of each child are gathered one after another. This happens right after
    the module's `configure_model`; a module that has sharded a part there is not changed. Everything else is
    Lightning's, including checkpoints. FSDP1 is not supported: its flat parameters hide the tensors' bounds from
    callbacks, and Lightning doesn't resume its full checkpoints exactly.

    Args:
        blocks: class names of the parts that are gathered one after another; None takes the large members of lists and
            sequences, see `blocks_of`.
        min_parameters: smallest number of parameters of a part that is found by size.
        reshard_after_forward: whether blocks are freed between forward and backward pass; None: all except the one
            gathered last.
        cpu_offload: whether shards, gradients and optimizer states stay in host memory. On the CPU it has no effect.
        teacher: "replicated" keeps the teacher whole on every process, "sharded" shards it like the student. In both
            cases checkpoints don't contain it.
        save_distributed_checkpoint: True writes a folder, to which each process adds its shard; False writes one file,
            which loads on any number of processes.
        **strategy: see `ModelParallelStrategy`; by default all processes are data-parallel.

    Raises:
        ValueError: an unknown placement of the teacher; when the fit begins, block names that match no part, or a
            parameter of the LightningModule itself or without a shape.

    Example:
        >>> strategy = FSDP2Strategy(blocks=["Block"], teacher="sharded")
        >>> strategy.teacher
        'sharded'
    """

    def __init__(
        self,
        blocks: Sequence[str] | None = None,
        min_parameters: int = 100_000,
        reshard_after_forward: bool | None = None,
        cpu_offload: bool = False,
        teacher: TeacherPlacement = "replicated",
        save_distributed_checkpoint: bool = True,
        **strategy: Any,
    ) -> None:
        check_choice("fsdp", "teacher", teacher, TeacherPlacement)
        super().__init__(save_distributed_checkpoint=save_distributed_checkpoint, **strategy)
        self.blocks = blocks
        self.min_parameters = min_parameters
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload
        self.teacher: TeacherPlacement = teacher

    def setup_environment(self) -> None:
        """Make the mesh of processes, and prepare the sharding of the module when it is configured."""
        share_data_by_default(self)
        if self.root_device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
            raise ValueError(
                f"fsdp: torch {torch.__version__} came, which shards on GPUs alone (CPU streams have no record_event); "
                "install torch 2.7 or later, or use trainer=ddp."
            )
        if self.cpu_offload and self.root_device.type == "cuda":
            # Norms of offloaded gradients are summed on the CPU.
            reduce_on_both_by_default(self)
        super().setup_environment()
        module = self.lightning_module
        assert module is not None
        if not isinstance(module.configure_model, functools.partial):
            module.configure_model = functools.partial(_configured, self, module, module.configure_model)  # type: ignore[method-assign]

    def model_to_device(self) -> None:
        """Move tensors that aren't sharded; offloaded shards are not moved."""
        assert self.model is not None
        if not self.cpu_offload:
            super().model_to_device()
            return
        for child in self.model.children():
            if not is_sharded(child):
                child.to(self.root_device)
        teacher = _teacher(self.model)
        if teacher is not None and not is_sharded(teacher):
            teacher.to(self.root_device)
        note_device(self.model, self.root_device)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state; an optimizer that has not stepped yet stays, and is saved, as such.

        torch creates missing state by a step with gradients of zero. Adam would count this step, and its weight decay
        would enter SGD's momentum.
        """
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        fresh = not inner.state
        state = super().optimizer_state(optimizer)
        if fresh:
            inner.state.clear()
            for values in state.get("state", {}).values():
                for name, value in values.items():
                    values[name] = torch.zeros_like(value) if isinstance(value, torch.Tensor) else value
        return state

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; a folder of shards gets its name once it is complete, with digests.

        The previous folder stays until then, for a moment as ``.<name>.previous``.

        Raises:
            OSError: the disk is full, or the folder can't be written to; for a folder, on every process.
        """
        checkpoint[_FRESH] = [number for number, optimizer in enumerate(self.optimizers) if not optimizer.state]
        if not writes_shards(self):
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        path = Path(self.broadcast(filepath))
        partial, previous = path.with_name(f".{path.name}.partial"), previous_name(path)
        if self.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
        self.barrier("before a checkpoint")
        refused, digests = None, {}
        try:
            super().save_checkpoint(checkpoint, partial, storage_options)
            digests = digests_of(partial, self.global_rank)
        except BaseException as error:
            refused = refusal(error)
            if refused is None:
                raise
        parts = values_on_first(digests)
        if refused is None and self.is_global_zero:
            try:
                write_digests(partial, {name: digest for part in parts for name, digest in part.items()})
            except OSError as error:
                refused = refusal(error)
        refused = self.broadcast(refused)
        if refused is not None:
            raise OSError(*refused, str(path))
        if self.is_global_zero:
            shutil.rmtree(previous, ignore_errors=True)
            if path.exists():
                os.replace(path, previous)
            os.replace(partial, path)
            if previous.is_dir():
                shutil.rmtree(previous)
            else:
                previous.unlink(missing_ok=True)
        self.barrier("a checkpoint has its name")

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read tensors and plain values from a file or a folder of shards.

        Raises:
            ValueError: a folder that holds anything else, or is no complete checkpoint; on every process.
        """
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            _check_together(path, self.global_rank)
        checkpoint = super().load_checkpoint(path, weights_only=True)
        for number, optimizer in enumerate(self.optimizers):
            if number in checkpoint.get(_FRESH, ()):
                optimizer.state.clear()
        return checkpoint

    def shard(self, module: nn.Module) -> None:
        """Shard the children of a module, and its teacher if it should be sharded."""
        mesh = self.device_mesh["data_parallel"]
        options: dict[str, Any] = {"reshard": self.reshard_after_forward, "offload": self.cpu_offload}
        refuse_unknown_shapes("fsdp", module)
        if not is_sharded(module):
            shard_children(module, blocks_of(module, self.blocks, self.min_parameters), mesh, **options)
        teacher = _teacher(module)
        if self.teacher == "sharded" and teacher is not None and not is_sharded(teacher):
            classes = {type(part).__name__ for part in teacher.modules()}
            # Another network may have other blocks.
            names = self.blocks if self.blocks is not None and classes.issuperset(self.blocks) else None
            holder = nn.ModuleList([teacher])
            shard_children(holder, blocks_of(teacher, names, self.min_parameters), mesh, **options)


def _configured(strategy: FSDP2Strategy, module: L.LightningModule, configure_model: Any) -> None:
    configure_model()
    strategy.shard(module)


def _check_together(folder: Path, rank: int) -> None:
    """Check a folder of shards, with the digests divided among processes; an error of one is raised on all."""
    told = None
    try:
        check_folder(folder, rank, world_size())
    except ValueError as error:
        told = str(error)
    if told := told_by_any(told):
        raise ValueError(told)


def _teacher(module: nn.Module) -> nn.Module | None:
    teacher = getattr(module, "teacher", None)
    return teacher if isinstance(teacher, nn.Module) and teacher not in set(module.children()) else None
