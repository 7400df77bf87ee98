"""Time by the card's own events, memory by its allocator, and a budget that no entry exceeds for long."""

import contextlib
import gc
import itertools
import math
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks.on_cuda.operands import Forward, Operands, Size, operands, step

WARM_UP_SECONDS = 45


class Entry(NamedTuple):
    """One way to compute a case's loss; `checked` where its numbers are compared with float64, too."""

    name: str
    forward: Forward
    checked: bool = True


@dataclass(frozen=True)
class Case:
    """Entries that compute one loss at one size.

    Attributes:
        name: what `aims.AIMS` and ``--only`` call it.
        title: heads its table.
        entries: what is timed, the one that the others are compared with first.
        exact: the loss by definition, for float64.
        tf32: whether float32 products may run in TF32.
        ignored: whether some tokens are ignored where numbers are compared.
        rounds: repetitions, if fewer than usual.
    """

    name: str
    title: str
    size: Size
    dtype: torch.dtype
    entries: tuple[Entry, ...]
    exact: Forward
    tf32: bool = False
    ignored: bool = True
    rounds: int | None = None

    def rehearsed(self) -> "Case":
        """The same in miniature."""
        return replace(self, size=self.size.rehearsed())

    def __str__(self) -> str:
        rounding = ", TF32" if self.tf32 else ""
        return f"{self.title}, {str(self.dtype).removeprefix('torch.')}{rounding}, {self.size}"


@dataclass(frozen=True)
class Bench:
    """The device, how often a step is repeated on it, and until when."""

    device: torch.device
    rounds: int
    deadline: float

    @property
    def on_card(self) -> bool:
        """Whether there are events and an allocator to ask."""
        return self.device.type == "cuda"

    def out_of_time(self) -> bool:
        """Whether what has not begun should not begin."""
        return time.monotonic() > self.deadline

    def seconds(self) -> int:
        """How long something may take to be ready: no longer than the time that is left."""
        return max(1, min(WARM_UP_SECONDS, math.ceil(self.deadline - time.monotonic())))

    def synchronize(self) -> None:
        """Wait for the card."""
        if self.on_card:
            torch.cuda.synchronize()

    def release(self) -> None:
        """Give freed memory back, so that one entry's does not fragment another's."""
        gc.collect()
        if self.on_card:
            torch.cuda.empty_cache()

    def turn(self, product: Callable[[], object], run: Callable[[], object]) -> tuple[float, float]:
        """Seconds of the product and of a step, which the host enqueues ahead of the card, as it does in training."""
        if not self.on_card:
            return _by_host(product), _by_host(run)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        product()  # keeps the card busy while the host goes on
        events[0].record()
        product()
        events[1].record()
        run()
        events[2].record()
        torch.cuda.synchronize()
        first, second = (start.elapsed_time(stop) / 1e3 for start, stop in itertools.pairwise(events))
        return first, second

    def extra_bytes(self, forward: Forward, tensors: Operands) -> int | None:
        """The peak of a step beyond what there was before and the two gradients that it leaves."""
        if not self.on_card:
            step(forward, tensors)
            return None
        tensors.hidden.grad = tensors.weight.grad = None
        self.release()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(forward, tensors)
        self.synchronize()
        gradients = sum(t.numel() * t.element_size() for t in tensors[:2])
        return torch.cuda.max_memory_allocated() - before - gradients


def _by_host(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """End what takes longer with a ``TimeoutError``: a compiler that searches, above all."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"not ready after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def reason(error: BaseException) -> str:
    """An error as one line of a table."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"needs the package {error.name.partition('.')[0]}, which is not installed"
    lines = str(error).strip().splitlines()
    first = next((line.strip() for line in lines if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:240].replace("|", "/")


def square_product(bench: Bench, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """The product whose rate the floor is taken at, and its operations."""
    side = 8192 if bench.on_card else 128
    left, right = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, dtype=dtype, device=bench.device)
    return lambda: torch.mm(left, right, out=out), 2 * side**3


def measure(case: Case, bench: Bench, advance: Callable[[str], None]) -> dict[str, Any]:
    """Every entry's median, range and memory; entries take turns, so that a card that throttles slows all of them."""
    torch.set_float32_matmul_precision("high" if case.tf32 else "highest")
    rows: dict[str, dict[str, Any]] = {entry.name: {"name": entry.name} for entry in case.entries}
    try:
        tensors = operands(case.size, case.dtype, bench.device)
        product, operations = square_product(bench, case.dtype)
        product()
    except Exception as error:
        return _record(case, [{**row, "reason": reason(error)} for row in rows.values()], None)
    turns = {}
    for entry in case.entries:
        advance(f"{case.name}: {entry.name}")
        if bench.out_of_time():
            rows[entry.name]["reason"] = "not run: the time was up"
            continue
        try:
            with limited(bench.seconds()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                step(entry.forward, tensors)
                rows[entry.name]["bytes"] = bench.extra_bytes(entry.forward, tensors)
                _, once = bench.turn(product, partial(step, entry.forward, tensors))
        except Exception as error:
            rows[entry.name]["reason"] = reason(error)
            tensors.hidden.grad = tensors.weight.grad = None
            bench.release()
        else:
            # One more than are counted: the first asks the system for the memory that was given back.
            turns[entry] = 1 + max(2, min(case.rounds or bench.rounds, round(0.35 / once)))
    products = []
    for number in range(max(turns.values(), default=0)):
        for entry, wanted in turns.items():
            if number < wanted and not (number > 1 and bench.out_of_time()):
                of_product, of_step = bench.turn(product, partial(step, entry.forward, tensors))
                if number:
                    products.append(of_product)
                    rows[entry.name].setdefault("seconds", []).append(of_step)
    floor = statistics.median(products) / operations * case.size.operations if products else None
    del tensors, product
    bench.release()
    return _record(case, list(rows.values()), floor)


def _record(case: Case, rows: list[dict[str, Any]], floor: float | None) -> dict[str, Any]:
    for row in rows:
        if times := row.pop("seconds", None):
            low, median, high = min(times), statistics.median(times), max(times)
            row |= {"ms": 1e3 * median, "low": 1e3 * low, "high": 1e3 * high, "rounds": len(times)}
    return {
        "name": case.name,
        "title": str(case),
        "size": case.size._asdict(),
        "itemsize": case.dtype.itemsize,
        "floor_ms": None if floor is None else 1e3 * floor,
        "entries": rows,
    }
