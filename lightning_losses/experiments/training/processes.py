"""What a recipe must know of its processes: which strategies it runs under, who writes, and what a checkpoint holds."""

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.load import _load_distributed_checkpoint
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from lightning_losses.experiments.config.instantiate import ConfigError
from lightning_losses.parallel.sharded_folders import check_folder

# Lightning starts each process by forking this one, in place of running the command again.
_FORKING = ("ddp_fork", "ddp_fork_find_unused_parameters_true", "ddp_spawn", "ddp_notebook")
_FSDP1 = ("fsdp", "fsdp_cpu_offload")


def check_trainer(trainer: DictConfig, *, sweeping: bool = False) -> None:
    """Raise `ConfigError` for a strategy that can't train what the recipe trains.

    Args:
        trainer: the configuration of a Trainer.
        sweeping: whether it is one job of a sweep in this process (``-m`` without a launcher of its own).
    """
    strategy = trainer.get("strategy")
    target = str(strategy.get("_target_", "")) if isinstance(strategy, DictConfig) else ""
    if strategy in _FSDP1 or target.endswith(".FSDPStrategy"):
        raise ConfigError(
            f"trainer.strategy={target or strategy}: this is FSDP1, which is not supported: its flat parameters "
            "hide the tensors' bounds and Lightning resumes its full checkpoints inexactly; use trainer=fsdp (FSDP2)."
        )
    if sweeping and runs_again(trainer):
        raise ConfigError(
            f"trainer.strategy={target.rpartition('.')[2] or strategy} with -m (--multirun): Lightning would run this "
            "command again for each further process, and every one of them would begin the sweep anew; use "
            "trainer=ddp_fork, or a launcher that starts the processes by itself (hydra/launcher=submitit_slurm), or "
            "start each run by its own command."
        )


def check_environment(trainer: DictConfig) -> None:
    """Raise `ConfigError` for a trainer of a SLURM job that isn't one."""
    plugins = trainer.get("plugins") or ()
    slurm = any(str(plugin.get("_target_", "")).endswith(".SLURMEnvironment") for plugin in plugins)
    if slurm and "SLURM_NTASKS" not in os.environ:
        raise ConfigError(
            "trainer=slurm: this is no process of a SLURM job; start the command by srun in a script for sbatch, or "
            "sweep with -m hydra/launcher=submitit_slurm (docs/scale.md has both)."
        )


def runs_again(trainer: DictConfig) -> bool:
    """Whether Lightning starts further processes by running the command again."""
    if {"SLURM_NTASKS", "TORCHELASTIC_RUN_ID"} & os.environ.keys():
        # srun and torchrun have started all of them.
        return False
    several = trainer.get("devices", 1) not in (1, "1") or (trainer.get("num_nodes") or 1) != 1
    return several and trainer.get("strategy") not in _FORKING


def queued_again() -> bool:
    """Whether SLURM started this job before."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


@contextmanager
def interruptible(trainer: L.Trainer) -> Iterator[None]:
    """Where a trainer forks its processes, tell them of Ctrl-C and SIGTERM, and end as they end.

    Raises:
        KeyboardInterrupt, or what SIGTERM raises: the processes were interrupted, and have written their checkpoint.
        OSError: what the system refused them.
    """
    forks = isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)
    if not forks or threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own = os.getpid()
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            # A forked process, before its training begins or after its end; not by KeyboardInterrupt, which torch
            # takes for a success.
            raise SystemExit(128 + number)
        children = multiprocessing.active_children()
        for child in children:
            os.kill(child.pid or own, signal.SIGKILL if told else number)
        told.append(number)
        for child in children:
            child.join()
        answer(number)

    def answer(number: int) -> None:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        signal.raise_signal(number)

    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, tell)
    try:
        yield
    except ProcessExitedException as ended:
        if ended.exit_code not in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            raise
        answer(ended.exit_code - 128)
        raise
    except ProcessRaisedException as raised:
        # A text is all that is left of it.
        refused = re.fullmatch(r"\w+: \[Errno (\d+)\] (.+): '(.+)'", raised.msg.strip().splitlines()[-1])
        if refused is None:
            raise
        raise OSError(int(refused[1]), refused[2], refused[3]) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def shards_teacher(trainer: DictConfig) -> bool:
    """Whether the strategy shards the teacher that a module is given."""
    strategy = trainer.get("strategy")
    return isinstance(strategy, DictConfig) and strategy.get("teacher") == "sharded"


def first_process() -> bool:
    """Whether this is the process that writes what the run leaves."""
    return not getattr(rank_zero_only, "rank", 0)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that this run wrote, whole, from one file or from a folder of shards."""
    if path.is_dir():
        check_folder(path)
        content: dict[str, Any] = _load_distributed_checkpoint(path)
        return content
    return torch.load(path, map_location="cpu", weights_only=True)
