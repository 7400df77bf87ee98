"""Contrastive losses of large batches, forward and backward, against the matrix of all similarities and a peer.

    python benchmarks/similarities.py --quick
    python benchmarks/similarities.py --picture similarities.png

Prints, for each number of pairs, the median milliseconds of CPU time on one thread for value and gradients, their ratio
to the same loss with the whole matrix in the same round, and the megabytes that a step takes beyond its inputs and
gradients, in a fresh process each, with their ratio. "NT-Xent", "CLIP", "InfoNCE" and "SigLIP" are `NTXent`,
`ClipContrastive` in both directions and in one, and `SigmoidContrastive`; the rows that begin with "matrix" are the
same by torch's own operations. "pytorch-metric-learning" is its NTXentLoss, up to 256 pairs: it takes minutes beyond.
"lightly" is its NTXentLoss without a memory bank, where the package is installed. Sizes whose matrices need more memory
than is free are left out.
"""

import argparse
import ctypes
import importlib.util
import json
import platform
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

METRIC_LEARNING, LIGHTLY = "pytorch-metric-learning", "lightly"
PEERS = {METRIC_LEARNING: "pytorch_metric_learning", LIGHTLY: "lightly"}
TEMPERATURE = 0.1
# The number by which glibc's `mallopt` knows the size from which on a block is given back when it is freed.
M_MMAP_THRESHOLD = -3
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


def metric_learning(a: Tensor, b: Tensor) -> Tensor:
    """pytorch-metric-learning's NT-Xent of two views."""
    from pytorch_metric_learning.losses import NTXentLoss

    loss: Any = NTXentLoss(temperature=TEMPERATURE)
    value: Tensor = loss(torch.cat([a, b]), torch.arange(len(a)).repeat(2))
    return value


def lightly(a: Tensor, b: Tensor) -> Tensor:
    """Lightly's NT-Xent of two views."""
    from lightly.loss import NTXentLoss

    value: Tensor = NTXentLoss(temperature=TEMPERATURE)(a, b)
    return value


VARIANTS: Mapping[str, Contrast] = {
    "NT-Xent": NTXent(TEMPERATURE),
    "matrix: NT-Xent": nt_xent_matrix,
    LIGHTLY: lightly,
    METRIC_LEARNING: metric_learning,
    "CLIP": ClipContrastive(TEMPERATURE),
    "matrix: CLIP": clip_matrix,
    "InfoNCE": ClipContrastive(TEMPERATURE, direction="forward"),
    "matrix: InfoNCE": info_nce_matrix,
    "SigLIP": SigmoidContrastive(TEMPERATURE),
    "matrix: SigLIP": siglip_matrix,
}
BASELINES = {name: f"matrix: {'NT-Xent' if name in PEERS else name}" for name in VARIANTS if ":" not in name}


def variants_of(pairs: int) -> list[str]:
    """The variants that are measured at this size."""
    installed = [name for name in VARIANTS if name not in PEERS or importlib.util.find_spec(PEERS[name])]
    return [name for name in installed if name != METRIC_LEARNING or pairs <= 256]


def groups_of(names: list[str]) -> list[list[str]]:
    """The variants that take turns: those of one loss; a peer that empties every cache is alone with the matrix."""
    groups: dict[str, list[str]] = {}
    for name in names:
        baseline = BASELINES.get(name)
        if baseline is not None:
            groups.setdefault(name if name == METRIC_LEARNING else baseline, [baseline]).append(name)
    return list(groups.values())


def fits(pairs: int) -> bool:
    """Whether the memory that is free holds the largest matrices: four of [2 pairs, 2 pairs] in float32."""
    listing = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else []
    free = [int(line.split()[1]) * 1024 for line in listing if line.startswith("MemAvailable")]
    return not free or 4 * 4 * (2 * pairs) ** 2 < free[0]


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
    milliseconds, of_matrix = {}, {}
    for group in groups_of(names):
        # More rounds where they are short.
        most = rounds if METRIC_LEARNING in group else max(rounds, 16384 // pairs)
        times = interleave({name: step_of(name, a, b) for name in group}, most, 1, f"B={pairs}")
        of_matrix |= {name: ratio for name, ratio in ratios(times, group[0]).items() if name in BASELINES}
        milliseconds |= {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
    return {name: milliseconds[name] for name in names}, of_matrix


def print_memory(name: str, pairs: int, width: int) -> None:
    """Megabytes of one step of a variant, for the process that asks."""
    torch.set_num_threads(1)
    # By glibc's own rule some blocks are given back when they are freed, and others kept, from run to run differently.
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**17)
    # What a first step loads is no memory of the loss.
    step_of(name, *operands(8, width))()
    a, b = operands(pairs, width)
    print(json.dumps(peak_extra_bytes(step_of(name, a, b), [a, b]) / 2**20))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory over the number of pairs."""
    from lightning_losses.plots.style import COLORS, new_figure, paper_style, save_figure

    present = {row["variant"] for row in rows}
    names = ["NT-Xent", "CLIP", "InfoNCE"]
    shown = {name: color for each, color in zip(names, COLORS, strict=False) for name in (each, f"matrix: {each}")}
    shown |= {METRIC_LEARNING: COLORS[3], LIGHTLY: COLORS[4]}
    with paper_style():
        figure, axes = new_figure(columns=2, width=3.5, height=3.1)
        for axis, key, label in ((axes[0], "ms", "CPU time of a step, s"), (axes[1], "MB", "memory, MB")):
            for name, color in shown.items():
                # Of a package that is not installed there is nothing to name.
                if name not in present:
                    continue
                of = sorted((row for row in rows if row["variant"] == name), key=lambda row: row["pairs"])
                pairs, values = [row["pairs"] for row in of], [row[key] / (1e3 if key == "ms" else 1) for row in of]
                style = "--" if name.startswith("matrix") else "-"
                axis.plot(pairs, values, style, marker="o", color=color, label=name, markersize=4)
            axis.set(xscale="log", yscale="log", xlabel="pairs in a batch", ylabel=label)
            sizes = sorted({row["pairs"] for row in rows})
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axis.minorticks_off()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=4)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[256, 1024, 4096, 8192, 16384])
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
    for name, package in PEERS.items():
        if not importlib.util.find_spec(package):
            console.print(f"{name}: not installed")
    results: list[dict[str, Any]] = []
    for pairs in options.pairs:
        if not fits(pairs):
            console.print(f"{pairs} pairs: the matrices do not fit the memory that is free")
            continue
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
        if options.output:
            write_json(options.output, results)
        if options.picture:
            draw(results, options.picture)
    console.print(conditions())


def _share(own: float | None, of_matrix: float | None) -> float | None:
    return None if own is None or not of_matrix else own / of_matrix


def _shown(value: Ratio | float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, Ratio) else f"{value:.3g}"


if __name__ == "__main__":
    main()
