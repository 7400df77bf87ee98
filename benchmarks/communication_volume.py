"""The bytes that batch-coupled losses send: counted on 2 and 4 gloo processes, extrapolated by formula.

    python -m benchmarks.communication_volume                       # a table for 8, 64 and 1024 GPUs
    python -m benchmarks.communication_volume --rows 256 --width 1000

Every tensor of a loss is gathered once forward and, if it has a gradient, summed once backward. The input of each
collective is counted at the call of torch; the bytes that leave a process are those of the ring algorithms,
which NCCL uses for large messages: all_gather sends (P - 1) times the process's own part, all_reduce 2 (P - 1) / P
times the whole. The formula is compared with the count on 2 and 4 processes, and exits with 1 if it is wrong by a byte.
"""

import argparse
import multiprocessing
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from lightning_losses.parallel.processes import gather_batch

# Tensors of one step: (columns, whether a gradient flows back); logits or features of the student, then the teacher.
LOSSES = {
    "sinkd, cka, similarity_preserving, ... : two [B, D]": [(None, True), (None, False)],
    "mmce, soft_binned_ece, ... : [B, D] and a target": [(None, True), (0, False)],
}


def sent(handed: int, processes: int, collective: str) -> float:
    """The bytes that leave a process in a ring, from what it hands to the collective."""
    return handed * (processes - 1) if collective == "all_gather" else 2 * handed * (processes - 1) / processes


def formula(tensors: list[tuple[int, bool]], rows: int, processes: int, size: int = 4) -> float:
    """The bytes that leave a process in a step."""
    total = 0.0
    for columns, trained in tensors:
        own = rows * (columns * size if columns else 8)
        # The number of rows, then the rows.
        total += sent(8, processes, "all_gather") + sent(own, processes, "all_gather")
        if trained:
            total += sent(own * processes, processes, "all_reduce")
    return total


@contextmanager
def counting(count: list[float], processes: int) -> Iterator[None]:
    """Within this context every collective's bytes are added up, and done."""
    gather, reduce = dist.all_gather, dist.all_reduce

    def all_gather(pieces: list[torch.Tensor], own: torch.Tensor, *rest: Any) -> Any:
        count.append(sent(own.numel() * own.element_size(), processes, "all_gather"))
        return gather(pieces, own, *rest)

    def all_reduce(values: torch.Tensor, *rest: Any, **options: Any) -> Any:
        count.append(sent(values.numel() * values.element_size(), processes, "all_reduce"))
        return reduce(values, *rest, **options)

    with patch.object(dist, "all_gather", all_gather), patch.object(dist, "all_reduce", all_reduce):
        yield


def member(rank: int, processes: int, port: int, rows: int, tensors: list[tuple[int, bool]], found: Any) -> None:
    """Gather a step's tensors on one process, and go back."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    count: list[float] = []
    with counting(count, processes):
        total = torch.zeros(())
        for columns, trained in tensors:
            value = torch.randn(rows, columns) if columns else torch.zeros(rows, dtype=torch.int64)
            gathered = gather_batch(value.requires_grad_() if trained else value)
            total = total + gathered.sum() if trained else total
        total.backward()
    found.put(sum(count))
    dist.barrier()
    dist.destroy_process_group()


def counted(tensors: list[tuple[int, bool]], rows: int, processes: int) -> float:
    """The bytes that leave a process in a step, counted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    workers = [
        context.Process(target=member, args=(rank, processes, port, rows, tensors, found)) for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a process failed; its message is above")
    values = {found.get() for _ in workers}
    if len(values) > 1:
        raise RuntimeError(f"processes of equal batches sent different numbers of bytes: {sorted(values)}")
    return values.pop()


def unit(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    for name in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or name == "GiB":
            return f"{count:.3g} {name}" if count < 1000 else f"{count:.0f} {name}"
        count /= 1024
    raise AssertionError


def main(arguments: list[str] | None = None) -> int:
    """Compare the formula with what is counted, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=128, help="of each process's batch")
    parser.add_argument("--width", type=int, default=1000, help="columns: classes or features")
    given = parser.parse_args(arguments)
    right = True
    for name, shapes in LOSSES.items():
        tensors = [(given.width if columns is None else columns, trained) for columns, trained in shapes]
        print(f"{name}   B = {given.rows} a process, D = {given.width}, float32")
        for processes in (2, 4):
            found, expected = counted(tensors, given.rows, processes), formula(tensors, given.rows, processes)
            right &= found == expected
            print(f"  {processes:5} processes: counted {found:.0f} B, formula {expected:.0f} B")
        print("  GPUs   sent a step   gathered rows   held, float32   one [N, N] matrix, float32")
        for processes in (8, 64, 1024):
            total = given.rows * processes
            held = sum(total * (columns * 4 if columns else 8) for columns, _ in tensors)
            print(
                f"  {processes:4}   {unit(formula(tensors, given.rows, processes)):>11}   {total:13,}   "
                f"{unit(held):>13}   {unit(4.0 * total * total):>11}"
            )
    print("The formula is right." if right else "The formula is wrong.")
    return 0 if right else 1


if __name__ == "__main__":
    raise SystemExit(main())
