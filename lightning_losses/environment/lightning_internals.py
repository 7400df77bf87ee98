"""Every private part of Lightning that is used: no other file names one; a test asks the installed version for each.

Lightning may rename or drop any of them in a new version without saying so; this file is then the one to mend.
"""

import subprocess
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Imported by whoever has a trainer; mixins and losses load without it.
if TYPE_CHECKING:
    import lightning as L
    import torch
    from lightning.fabric.plugins import ClusterEnvironment
    from lightning.pytorch.callbacks import RichProgressBar
    from lightning.pytorch.strategies import ModelParallelStrategy

# Under this name a LightningModule notes which hook runs, about 40 times a step.
RUNNING_HOOK = "_current_fx_name"


def attached_trainer(module: "L.LightningModule") -> "L.Trainer | None":
    """The trainer of a module, or None; the public property raises where there is none."""
    return module._trainer


def running_hook(module: "L.LightningModule") -> str | None:
    """The hook that Lightning runs: a step that anybody else calls is told apart by it."""
    return module._current_fx_name


def note_running_hook(module: "L.LightningModule", hook: str) -> None:
    """Tell which hook runs, as Lightning does before each: by this name it knows who logs."""
    module._current_fx_name = hook


def before_transfer(module: "L.LightningModule", batch: Any, dataloader_idx: int) -> Any:
    """What the data module's or the module's hook makes of a batch on the host: only Lightning knows whose it is."""
    return module._on_before_batch_transfer(batch, dataloader_idx=dataloader_idx)


def forget_mesh(module: "L.LightningModule") -> None:
    """Let a module be copied: the mesh of its processes holds what can't be."""
    module._device_mesh = None


def forget_hyperparameters(module: "L.LightningModule", is_forgotten: Callable[[Any], bool]) -> None:
    """Drop hyperparameters from what is saved and from what is logged; the public ways change the first alone."""
    saved, first = (module.__dict__.get(name) or {} for name in ("_hparams", "_hparams_initial"))
    for name in [name for name, value in saved.items() if is_forgotten(value)]:
        del saved[name]
        first.pop(name, None)


def note_device(module: "torch.nn.Module", device: "torch.device") -> None:
    """Tell where a module computes, without moving what is offloaded from there."""
    module._device = device  # type: ignore[assignment]


def count_steps(trainer: "L.Trainer", steps: int) -> None:
    """Add to the steps that loggers are told: Lightning counts one for a batch, however many a module took on it."""
    trainer.fit_loop.epoch_loop._batches_that_stepped += steps


def step_progress(trainer: "L.Trainer") -> Any:
    """What counts the optimizer steps that a module takes itself, where it goes around Lightning's optimizer."""
    return trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress


def batch_number(trainer: "L.Trainer") -> int:
    """The number of the batch in the loop that runs, of training, validation or test; 0 where none runs."""
    loop = trainer._active_loop
    progress = getattr(getattr(loop, "epoch_loop", loop), "batch_progress", None)
    return max(progress.current.ready - 1, 0) if progress is not None else 0


def takes_step(trainer: "L.Trainer") -> bool:
    """Whether the optimizer steps after the batch that is under way: Lightning alone knows the epoch's last window."""
    return not trainer.fit_loop._should_accumulate()


def logged_elsewhere(trainer: "L.Trainer", own: Collection[tuple[str | None, str]]) -> set[str]:
    """The names that the running loop has logged, by other hooks and under other names than one's own."""
    metas = [result.meta for result in (trainer._results or {}).values()]
    return {meta.name for meta in metas if (meta.fx, meta.name) not in own}


def epoch_results(trainer: "L.Trainer") -> dict[str, Any]:
    """What the begun epoch has logged, by Lightning's keys: its checkpoints leave it out."""
    return trainer.fit_loop.epoch_loop._results


def leave_after_step(trainer: "L.Trainer") -> None:
    """Have the training end by Lightning's own way out, after the module's hooks, which also belong to the step."""
    trainer._signal_connector.received_sigterm = True


def load_validation(trainer: "L.Trainer") -> None:
    """Make the validation loaders, unless they are there: a resumed training that has no step left makes none."""
    if trainer.val_dataloaders is None:
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True


def go_on_after_whole_epochs(trainer: "L.Trainer") -> None:
    """Have a checkpoint of whole epochs go on with the next one, also where a training counts steps.

    Lightning takes every checkpoint of such a training for one of a begun epoch, which it would end a second time.
    """
    from lightning.pytorch.loops.loop import _Loop

    loop = trainer.fit_loop
    load = loop.load_state_dict

    def loaded(state_dict: dict[str, Any], prefix: str = "") -> None:
        load(state_dict, prefix)
        epochs: Any = loop.epoch_progress.current
        if epochs.ready == epochs.started == epochs.processed:
            _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]

    loop.load_state_dict = loaded  # type: ignore[method-assign]


def handler_before(trainer: "L.Trainer", number: int, otherwise: Any) -> Any:
    """What answered a signal before Lightning did: its own handler broadcasts while others are at something else."""
    return trainer._signal_connector._original_handlers.get(number, otherwise)


def cluster_environment(trainer: "L.Trainer") -> "ClusterEnvironment | None":
    """What tells a process its place among the others; strategies of one process don't show it."""
    return trainer._accelerator_connector.cluster_environment


def forks_processes(trainer: "L.Trainer") -> bool:
    """Whether the trainer's processes are forked from this one, where Lightning tells callbacks of no exception."""
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def wrap_batches(trainer: "L.Trainer", wrapper: Callable[[Callable[[], None]], Callable[[], None]]) -> None:
    """Run the parts of an epoch's loop in which an interruption is raised within something else."""
    loop = trainer.fit_loop
    loop.advance = wrapper(loop.advance)  # type: ignore[method-assign]
    loop.on_advance_end = wrapper(loop.on_advance_end)  # type: ignore[method-assign]


def around_training_steps(trainer: "L.Trainer", wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Run every training step, with the strategy's precision and wrapping, within something else."""
    trainer.strategy.training_step = wrapper(trainer.strategy.training_step)  # type: ignore[method-assign]


def plain_training_steps(trainer: "L.Trainer") -> None:
    """Run training steps by themselves again."""
    vars(trainer.strategy).pop("training_step", None)


def release_processes() -> list[subprocess.Popen[Any]]:
    """The further processes that Lightning started and watches; from here on it lets them leave, and ends nothing."""
    from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

    released: list[subprocess.Popen[Any]] = []
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            released += thread._child_processes
            thread._child_processes.clear()
    return released


def describe_epochs(bar: "RichProgressBar", describe: Callable[[int], str]) -> None:
    """Have a progress bar say of an epoch, by its number, what a function says; no public method is asked."""
    bar._get_train_description = describe  # type: ignore[assignment, method-assign]


def read_shards(folder: Path) -> dict[str, Any]:
    """A checkpoint of shards, whole; it unpickles, so that the folder must have been checked."""
    from lightning.fabric.utilities.load import _load_distributed_checkpoint

    content: dict[str, Any] = _load_distributed_checkpoint(folder)
    return content


def share_data_by_default(strategy: "ModelParallelStrategy") -> None:
    """Read two sizes of "auto" as data that all processes share; Lightning would split layers within a machine."""
    if strategy._data_parallel_size == strategy._tensor_parallel_size == "auto":
        strategy._data_parallel_size, strategy._tensor_parallel_size = strategy.num_nodes * strategy.num_processes, 1


def reduce_on_both_by_default(strategy: "ModelParallelStrategy") -> None:
    """Let tensors on the CPU be reduced as well as those on the GPU, unless a backend was chosen."""
    if strategy._process_group_backend is None:
        strategy._process_group_backend = "cpu:gloo,cuda:nccl"


def writes_shards(strategy: "ModelParallelStrategy") -> bool:
    """Whether each process writes its part of a checkpoint into a folder; Lightning keeps the setting to itself."""
    return strategy._save_distributed_checkpoint
