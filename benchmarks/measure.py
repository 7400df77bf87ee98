"""How the benchmarks measure: variants interleaved in one process, memory in a fresh process each."""

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lightning_losses.numerics.products import product

console = Console()


class Ratio(NamedTuple):
    """A time relative to the baseline of the same round: median, smallest, largest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}..{self.high:.2f}]"


def interleave(
    variants: Mapping[str, Callable[[], object]], rounds: int, threads: int, title: str
) -> dict[str, list[float]]:
    """Seconds of every variant in every round; CPU time on one thread, wall clock on several."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in variants}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(title, total=(rounds + 1) * len(variants))
        for round_ in range(rounds + 1):
            for name, run in variants.items():
                progress.update(task, description=f"{title} {name}", advance=1)
                start = clock()
                run()
                if round_:  # the first round warms up and compiles
                    times[name].append(clock() - start)
    return times


def ratios(times: Mapping[str, list[float]], baseline: str) -> dict[str, Ratio]:
    """Each variant's times over the baseline's of the same round."""
    found = {}
    for name, seconds in times.items():
        each = [one / other for one, other in zip(seconds, times[baseline], strict=True)]
        found[name] = Ratio(statistics.median(each), min(each), max(each))
    return found


def product_rate(dtype: torch.dtype, width: int, vocabulary: int, threads: int) -> float:
    """Floating-point operations per second of the fastest of the products that a fused head needs."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    rows, columns = 512, min(vocabulary, 8192)
    e, weight = torch.randn(rows, width).to(dtype), torch.randn(columns, width).to(dtype)
    scores = torch.randn(rows, columns).to(dtype)
    best = 0.0
    for run in (
        lambda: product(e, weight),
        lambda: product(scores, weight.t()),
        lambda: product(scores.t(), e.t()),
        lambda: torch.mm(e, weight.t()),
    ):
        run()
        for _ in range(5):
            start = clock()
            run()
            best = max(best, 2 * rows * columns * width / (clock() - start))
    return best


def peak_extra_bytes(step: Callable[[], object], gradients: list[torch.Tensor]) -> int:
    """What one step's peak takes beyond what there was before and the gradients that it leaves."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return _status("VmHWM") - before - sum(t.numel() * t.element_size() for t in gradients)


def release_freed() -> None:
    """Give what the allocator keeps for later back to the system, so that the next step has to ask for it again."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def memory_in_fresh_process(script: str, *arguments: object) -> float | None:
    """Megabytes as the script's ``--memory`` mode prints them, or None where the variant does not run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=False, env=environment
    )
    return float(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def conditions() -> str:
    """The processor and its load, for the record."""
    listing = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in listing)}
    generation = f"family {told.get('cpu family', '?')}, model {told.get('model', '?')}"
    model = f"{told.get('model name', 'unknown CPU')} ({generation})"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{model}, {os.cpu_count()} cores, torch {torch.__version__}, load {load}"
