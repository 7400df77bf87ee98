"""ArcFace from embeddings and class vectors, forward and backward, against the number of classes: time and memory.

    python benchmarks/margin_losses.py --quick
    python benchmarks/margin_losses.py --plot margins.png

Prints, for each number of classes, the median milliseconds of CPU time on one thread, for value and gradients, and the
megabytes that a step takes beyond its inputs and gradients, in a fresh process each:

- "dense": `ArcFace` of the cosines of a `MarginHead`;
- "linear_margin_loss": by chunks, its gradient by hand;
- "autograd": by chunks, its gradient by autograd;
- "pytorch-metric-learning": its ArcFaceLoss, if it is installed.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from measure import conditions, console, interleave, memory_in_fresh_process, peak_extra_bytes, show
from torch import Tensor

from lightning_losses import linear_margin_loss
from lightning_losses.environment.atomic_files import write_json
from lightning_losses.losses import ArcFace
from lightning_losses.networks.margin_head import MarginHead

VARIANTS = ("dense", "linear_margin_loss", "autograd", "pytorch-metric-learning")


def step_of(name: str, embeddings: Tensor, head: MarginHead, target: Tensor) -> Callable[[], None]:
    """Value and gradients of a variant."""
    loss = ArcFace()
    if name == "dense":
        return lambda: loss(head(embeddings), target).backward()
    if name != "pytorch-metric-learning":
        impl = "autograd" if name == "autograd" else "auto"
        return lambda: linear_margin_loss(loss, embeddings, head.weight, target, impl=impl).backward()
    from pytorch_metric_learning.losses import ArcFaceLoss

    theirs = ArcFaceLoss(head.num_classes, head.in_features)
    # Their vectors are columns; these are ours.
    theirs.W = torch.nn.Parameter(head.weight.detach().T.contiguous())
    return lambda: theirs(embeddings, target).backward()


def operands(rows: int, width: int, classes: int) -> tuple[Tensor, MarginHead, Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows, width, requires_grad=True), MarginHead(width, classes), torch.randint(classes, (rows,))


def measured(rows: int, width: int, classes: int, rounds: int, variants: tuple[str, ...]) -> dict[str, float]:
    """Milliseconds of each variant."""
    embeddings, head, target = operands(rows, width, classes)
    steps = {name: step_of(name, embeddings, head, target) for name in variants}

    def alone(step: Callable[[], None]) -> None:
        step()
        # Each pays for the memory of its own gradients.
        embeddings.grad = head.weight.grad = None

    times = interleave({name: partial(alone, step) for name, step in steps.items()}, rounds, 1, f"C={classes}")
    return {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}


def print_memory(name: str, rows: int, width: int, classes: int) -> None:
    """Megabytes of one step of a variant, for the process that asks."""
    torch.set_num_threads(1)
    # What a first step loads is no memory of the loss.
    step_of(name, *operands(8, width, 16))()
    embeddings, head, target = operands(rows, width, classes)
    extra = peak_extra_bytes(step_of(name, embeddings, head, target), [embeddings, head.weight])
    print(json.dumps(extra / 2**20))


def plot(path: Path, results: dict[int, dict[str, dict[str, float | None]]], rows: int, width: int) -> None:
    """Time and memory against the number of classes."""
    from matplotlib.ticker import LogFormatter

    from lightning_losses.plots.style import new_figure, paper_style, save_figure

    with paper_style():
        figure, axes = new_figure(columns=2, width=3.5, height=2.8)
        labels = {"ms": "ms of CPU time", "MB": "MB beyond inputs\nand gradients"}
        for axis, (what, label) in zip(axes, labels.items(), strict=True):
            for name in next(iter(results.values()))[what]:
                values = [result[what][name] for result in results.values()]
                axis.plot(list(results), values, marker="o", markersize=4, label=name)
            axis.set_xscale("log", base=2)
            axis.set(yscale="log", xlabel=f"classes, B = {rows}, D = {width}, float32", ylabel=label)
            # Plain numbers, since an axis may have a single power of ten.
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=4)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--classes", type=int, nargs="+", default=[2**power for power in range(12, 18)])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two small numbers of classes, two rounds")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    parser.add_argument("--plot", type=Path, help="draw time and memory")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print_memory(options.memory, options.rows, options.width, options.classes[0])
        return
    if options.quick:
        options.rows, options.width, options.classes, options.rounds = 128, 64, [1024, 4096], 2
    console.print(conditions())
    results: dict[int, dict[str, dict[str, float | None]]] = {}
    for classes in options.classes:
        sizes = ("--rows", options.rows, "--width", options.width, "--classes", classes)
        results[classes] = {
            "ms": {**measured(options.rows, options.width, classes, options.rounds, tuple(options.variants))},
            "MB": {name: memory_in_fresh_process(__file__, "--memory", name, *sizes) for name in options.variants},
        }
    for what in ("ms", "MB"):
        show(
            f"ArcFace, float32, B={options.rows} D={options.width}, {what}",
            ["C", *options.variants],
            [
                [str(c), *("-" if value is None else f"{value:.1f}" for value in result[what].values())]
                for c, result in results.items()
            ],
        )
    console.print(conditions())
    if options.output:
        write_json(options.output, results)
    if options.plot:
        plot(options.plot, results, options.rows, options.width)


if __name__ == "__main__":
    main()
