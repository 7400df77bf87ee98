"""Contrastive losses of large batches, forward and backward, against the matrix of all similarities and a peer.

    python benchmarks/similarities.py --quick
    python benchmarks/similarities.py --picture similarities.png

Prints, for each number of pairs, the median milliseconds of CPU time on one thread for value and gradients, their ratio
to the same loss with the whole matrix in the same round, and the megabytes that a step takes beyond its inputs and
gradients, in a fresh process each, with their ratio. "NT-Xent", "CLIP", "InfoNCE" and "SigLIP" are `NTXent`,
`ClipContrastive` in both directions and in one, and `SigmoidContrastive`; the rows that begin with "matrix" are the
same by torch's own operations. "pytorch-metric-learning" is its NTXentLoss, up to 256 pairs: it takes minutes beyond.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import Ratio, conditions, console, interleave, memory_in_fresh_process, peak_extra_bytes, ratios, show
from torch import Tensor

from lightning_losses import ClipContrastive, NTXent, SigmoidContrastive
from lightning_losses.environment.atomic_files import write_json

PEER = "pytorch-metric-learning"
TEMPERATURE = 0.1
Contrast = Callable[[Tensor, Tensor], Tensor]


def nt_xent_matrix(a: Tensor, b: Tensor) -> Tensor:
    """NT-Xent with the matrix of all similarities."""
    views = F.normalize(torch.cat([a, b]), dim=-1)
    scores = (views @ views.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(scores, torch.arange(len(views)).roll(len(a)))


def clip_matrix(a: Tensor, b: Tensor) -> Tensor:
    """CLIP's loss with the matrix."""
    scores, own = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / TEMPERATURE, torch.arange(len(a))
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def info_nce_matrix(a: Tensor, b: Tensor) -> Tensor:
    """One direction of it."""
    return F.cross_entropy(F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / TEMPERATURE, torch.arange(len(a)))


def siglip_matrix(a: Tensor, b: Tensor) -> Tensor:
    """SigLIP's loss with the matrix; scale and bias as they begin."""
    scores = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / TEMPERATURE - 10.0
    return -F.logsigmoid(scores * (2 * torch.eye(len(a)) - 1)).sum() / len(a)


def peer(a: Tensor, b: Tensor) -> Tensor:
    """pytorch-metric-learning's NT-Xent of two views."""
    from pytorch_metric_learning.losses import NTXentLoss

    loss: Any = NTXentLoss(temperature=TEMPERATURE)
    value: Tensor = loss(torch.cat([a, b]), torch.arange(len(a)).repeat(2))
    return value


VARIANTS: Mapping[str, Contrast] = {
    "NT-Xent": NTXent(TEMPERATURE),
    "matrix: NT-Xent": nt_xent_matrix,
    PEER: peer,
    "CLIP": ClipContrastive(TEMPERATURE),
    "matrix: CLIP": clip_matrix,
    "InfoNCE": ClipContrastive(TEMPERATURE, direction="forward"),
    "matrix: InfoNCE": info_nce_matrix,
    "SigLIP": SigmoidContrastive(TEMPERATURE),
    "matrix: SigLIP": siglip_matrix,
}
BASELINES = {name: "matrix: NT-Xent" if name == PEER else f"matrix: {name}" for name in VARIANTS if ":" not in name}


def variants_of(pairs: int) -> list[str]:
    """The variants that are measured at this size."""
    return [name for name in VARIANTS if name != PEER or pairs <= 256]


def operands(pairs: int, width: int) -> tuple[Tensor, Tensor]:
    """Two random views."""
    torch.manual_seed(0)
    return torch.randn(pairs, width, requires_grad=True), torch.randn(pairs, width, requires_grad=True)


def step_of(name: str, a: Tensor, b: Tensor) -> Callable[[], None]:
    """Value and gradients of a variant."""

    def step() -> None:
        a.grad = b.grad = None
        VARIANTS[name](a, b).backward()  # type: ignore[no-untyped-call]

    return step


def measured(pairs: int, width: int, rounds: int) -> tuple[dict[str, float], dict[str, Ratio]]:
    """Milliseconds of each variant, and the ratios to the same loss with its matrix."""
    a, b = operands(pairs, width)
    names = variants_of(pairs)
    with torch.no_grad():
        values = {name: VARIANTS[name](a, b).item() for name in names}
    for name in names:
        other = values[BASELINES.get(name, name)]
        assert abs(values[name] - other) <= 1e-4 * abs(other), (name, values)
    times = interleave({name: step_of(name, a, b) for name in names}, rounds, 1, f"B={pairs}")
    found = {name: ratios(times, baseline)[name] for name, baseline in BASELINES.items() if name in times}
    return {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}, found


def print_memory(name: str, pairs: int, width: int) -> None:
    """Megabytes of one step of a variant, for the process that asks."""
    torch.set_num_threads(1)
    # What a first step loads is no memory of the loss.
    step_of(name, *operands(8, width))()
    a, b = operands(pairs, width)
    print(json.dumps(peak_extra_bytes(step_of(name, a, b), [a, b]) / 2**20))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory over the number of pairs."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    shown = {"NT-Xent": "C0", "matrix: NT-Xent": "C0", "CLIP": "C1", "matrix: CLIP": "C1", PEER: "C2"}
    for axis, key, label in ((axes[0], "ms", "CPU time of a step, s"), (axes[1], "MB", "memory, MB")):
        for name, color in shown.items():
            of = [row for row in rows if row["variant"] == name]
            values = [row[key] / (1e3 if key == "ms" else 1) for row in of]
            style = "--" if name.startswith("matrix") else "-"
            axis.plot([row["pairs"] for row in of], values, style, marker="o", color=color, label=name, markersize=4)
        axis.set(xscale="log", yscale="log", xlabel="pairs in a batch", ylabel=label)
        sizes = sorted({row["pairs"] for row in rows})
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[256, 1024, 4096, 8192])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    parser.add_argument("--picture", type=Path, help="draw time and memory into this file")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print_memory(options.memory, options.pairs[0], options.width)
        return
    if options.quick:
        options.pairs, options.rounds = [64, 800], 1
    console.print(conditions())
    results: list[dict[str, Any]] = []
    for pairs in options.pairs:
        milliseconds, of_matrix = measured(pairs, options.width, options.rounds)
        sizes = ("--pairs", pairs, "--width", options.width)
        memory = {name: memory_in_fresh_process(__file__, "--memory", name, *sizes) for name in milliseconds}
        results += [
            {
                "pairs": pairs,
                "variant": name,
                "ms": milliseconds[name],
                "ratio": of_matrix.get(name),
                "MB": memory[name],
                "memory_ratio": _share(memory[name], memory[BASELINES[name]]) if name in BASELINES else None,
            }
            for name in milliseconds
        ]
        show(
            f"Contrastive losses, float32, B={pairs} D={options.width}",
            ["variant", "ms", "time ratio", "MB", "memory ratio"],
            [
                [row["variant"], f"{row['ms']:.1f}", *(_shown(row[key]) for key in ("ratio", "MB", "memory_ratio"))]
                for row in results
                if row["pairs"] == pairs
            ],
        )
    console.print(conditions())
    if options.output:
        write_json(options.output, results)
    if options.picture:
        draw(results, options.picture)


def _share(own: float | None, of_matrix: float | None) -> float | None:
    return None if own is None or not of_matrix else own / of_matrix


def _shown(value: Ratio | float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, Ratio) else f"{value:.3g}"


if __name__ == "__main__":
    main()
