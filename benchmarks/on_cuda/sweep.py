"""The kernels alone, over how much of a row a program reads at once and by how many warps."""

import importlib
import itertools
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.on_cuda.measurement import Bench, limited, reason
from lightning_losses import KD, NKD, GeneralizedJSD

BLOCKS, WARPS = (1024, 2048, 4096, 8192, 16384), (4, 8, 16, 32)
ROWS, VOCABULARIES = 2048, (128256, 32768)


def sweep(bench: Bench, advance: Callable[[str], None]) -> list[dict[str, Any]]:
    """Milliseconds of one launch on a chunk in bfloat16, and terabytes a second of its reads and writes."""
    found = []
    for vocabulary, (name, make) in itertools.product(VOCABULARIES, KERNELS.items()):
        rows, columns = (ROWS, vocabulary) if bench.on_card else (1, 300)
        for block, warps in itertools.product(BLOCKS, WARPS):
            # More than 32 entries a thread spill, fewer than 4 leave threads idle.
            if not 4 <= block // (32 * warps) <= 32:
                continue
            advance(f"{name} V={columns}: blocks of {block}, {warps} warps")
            row: dict[str, Any] = {"kernel": name, "vocabulary": columns, "block": block, "warps": warps}
            if bench.out_of_time():
                found.append(row | {"reason": "not run: the time was up"})
                continue
            try:
                with limited(bench.seconds()):
                    launch, matrices = make(rows, columns, bench.device, block, warps)
                    launch()
                    times = [bench.turn(launch, launch)[1] for _ in range(10 if bench.on_card else 1)]
                median = statistics.median(times)
                moved = (2 * matrices + 1) * rows * columns * 2
                row |= {"ms": 1e3 * median, "terabytes_per_second": moved / median / 1e12}
            except Exception as error:
                row["reason"] = reason(error)
            found.append(row)
            bench.release()
    return found


def _scores(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    return torch.randn(rows, columns, device=device).to(torch.bfloat16)


@contextmanager
def _set(module: Any, **constants: Any) -> Iterator[None]:
    before = {name: getattr(module, name) for name in constants}
    for name, value in constants.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


class _ByWarps:
    """A kernel that runs by a number of warps, whatever its launch derives from the block."""

    def __init__(self, kernel: Any, warps: int) -> None:
        self.kernel, self.warps = kernel, warps

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        launched = self.kernel[grid]
        return lambda *operands, **options: launched(*operands, **{**options, "num_warps": self.warps})


def _cross_entropy(
    rows: int, columns: int, device: torch.device, block: int, warps: int
) -> tuple[Callable[[], None], int]:
    from lightning_losses.kernels.cross_entropy.rows import Statistics
    from lightning_losses.kernels.terms import Terms

    walk = importlib.import_module("lightning_losses.kernels.cross_entropy.triton_walk")
    logits = _scores(rows, columns, device)
    target = torch.randint(columns, (rows,), device=device)
    made, upstream = (Statistics(*torch.ones(2, rows, device=device)) for _ in range(2))
    launch = walk.Launch(logits, None, Terms(columns))

    def run() -> None:
        with _set(walk, BLOCK=block, cross_entropy_kernel=_ByWarps(walk.cross_entropy_kernel, warps)):
            launch(logits, target, made, upstream, known=False)

    return run, 1


def _distillation(objective: Any) -> Callable[..., tuple[Callable[[], None], int]]:
    def make(rows: int, columns: int, device: torch.device, block: int, warps: int) -> tuple[Callable[[], None], int]:
        from lightning_losses.kernels.rows.gradients import Parts
        from lightning_losses.kernels.rows.objectives import objective_of

        walk = importlib.import_module("lightning_losses.kernels.rows.triton_walk")
        student, teacher = (_scores(rows, columns, device) for _ in range(2))
        target = torch.randint(columns, (rows,), device=device)
        share, values = torch.ones(rows, device=device), torch.empty(1, rows, device=device)
        settled = objective_of(objective), Parts(), True

        def run() -> None:
            with _set(walk, BLOCK_BYTES=2 * block, WARPS=warps):
                walk._launch(student, teacher, (None, None), target, share, values, *settled)

        return run, 2

    return make


KERNELS = {
    "cross-entropy": _cross_entropy,
    "KD": _distillation(KD(2.0)),
    "JSD": _distillation(GeneralizedJSD()),
    "NKD": _distillation(NKD()),
}
