"""How the processes of a run are interrupted, which of them writes, and what a checkpoint holds."""

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
from lightning.pytorch.utilities import rank_zero_only
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from lightning_losses.environment.lightning_internals import forks_processes, read_shards
from lightning_losses.parallel.sharded_folders import check_folder


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
    if not forks_processes(trainer) or threading.current_thread() is not threading.main_thread():
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


def first_process() -> bool:
    """Whether this is the process that writes what the run leaves."""
    return not getattr(rank_zero_only, "rank", 0)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that this run wrote, whole, from one file or from a folder of shards."""
    if path.is_dir():
        check_folder(path)
        return read_shards(path)
    return torch.load(path, map_location="cpu", weights_only=True)
