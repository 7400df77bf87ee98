"""The triplet loss of a batch, forward and backward, against pytorch-metric-learning's: time and memory.

    python benchmarks/triplet.py --quick
    python benchmarks/triplet.py

Prints, for each number of rows, the median milliseconds of CPU time on one thread for value and gradients, their ratio
to pytorch-metric-learning's in the same round, and the megabytes that a step takes beyond its inputs and gradients, in
a fresh process each, with their ratio. "all", "semi_hard" and "hard" are what `Triplet` mines;
"pytorch-metric-learning" is its TripletMarginLoss, which forms all triplets, as "all" does not. The values of the two
are compared first.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from measure import Ratio, conditions, console, interleave, memory_in_fresh_process, peak_extra_bytes, ratios, show
from torch import Tensor

from lightning_losses import Triplet
from lightning_losses.environment.atomic_files import write_json

PEER = "pytorch-metric-learning"
VARIANTS = ("all", "semi_hard", "hard", PEER)


def loss_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a variant."""
    if name != PEER:
        return Triplet(mining=name)  # type: ignore[arg-type]
    from pytorch_metric_learning.losses import TripletMarginLoss

    return TripletMarginLoss()


def operands(rows: int, width: int, classes: int) -> tuple[Tensor, Tensor]:
    """Random embeddings, and as many rows of each class."""
    torch.manual_seed(0)
    return torch.randn(rows, width, requires_grad=True), torch.arange(rows) % classes


def step_of(name: str, embeddings: Tensor, target: Tensor) -> Callable[[], None]:
    """Value and gradients of a variant."""
    loss = loss_of(name)

    def step() -> None:
        embeddings.grad = None
        loss(embeddings, target).backward()

    return step


def measured(rows: int, width: int, classes: int, rounds: int) -> tuple[dict[str, float], dict[str, Ratio]]:
    """Milliseconds of each variant, and their ratios to the peer's."""
    embeddings, target = operands(rows, width, classes)
    ours, theirs = (loss_of(name)(embeddings.detach(), target).item() for name in ("all", PEER))
    assert abs(ours - theirs) <= 1e-5 * abs(theirs), (ours, theirs)
    steps = {name: step_of(name, embeddings, target) for name in VARIANTS}
    times = interleave(steps, rounds, 1, f"B={rows}")
    return {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}, ratios(times, PEER)


def print_memory(name: str, rows: int, width: int, classes: int) -> None:
    """Megabytes of one step of a variant, for the process that asks."""
    torch.set_num_threads(1)
    # What a first step loads is no memory of the loss.
    step_of(name, *operands(8, width, 2))()
    embeddings, target = operands(rows, width, classes)
    print(json.dumps(peak_extra_bytes(step_of(name, embeddings, target), [embeddings]) / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--classes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few rows, two rounds")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print_memory(options.memory, options.rows[0], options.width, options.classes)
        return
    if options.quick:
        options.rows, options.rounds = [64, 256], 2
    console.print(conditions())
    results = {}
    for rows in options.rows:
        milliseconds, of_peer = measured(rows, options.width, options.classes, options.rounds)
        sizes = ("--rows", rows, "--width", options.width, "--classes", options.classes)
        memory = {name: memory_in_fresh_process(__file__, "--memory", name, *sizes) for name in VARIANTS}
        results[rows] = {"ms": milliseconds, "ratio": of_peer, "MB": memory}
        show(
            f"Triplet loss, float32, B={rows} D={options.width}, {options.classes} classes",
            ["variant", "ms", "time ratio", "MB", "memory ratio"],
            [
                [name, f"{milliseconds[name]:.1f}", str(of_peer[name]), *_memory(memory[name], memory[PEER])]
                for name in VARIANTS
            ],
        )
    console.print(conditions())
    if options.output:
        write_json(options.output, results)


def _memory(own: float | None, of_peer: float | None) -> list[str]:
    if own is None:
        return ["-", "-"]
    return [f"{own:.1f}", "-" if of_peer is None else f"{own / of_peer:.4f}"]


if __name__ == "__main__":
    main()
