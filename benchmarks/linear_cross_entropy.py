"""Linear cross-entropy, forward and backward: every implementation against plain cross-entropy of the logits.

    python benchmarks/linear_cross_entropy.py --quick
    python benchmarks/linear_cross_entropy.py --tokens 1024 4096 --width 512 2048 --vocabulary 8192 32768 131072
    python benchmarks/linear_cross_entropy.py --baseline chunked --variants chunked chunked-gce --tokens 1024 \
        --width 512 --vocabulary 32768

Prints, for each size, the median ratio of CPU time on one thread to plain (and its range over the rounds), the time
over the floor of 6 N D V operations at the rate of the fastest product measured in the same run, and the peak memory
beyond inputs and gradients, of the second step in a fresh process for each variant. With --threads 2 times are wall
clock. --baseline is compared with in place of plain; -gce is generalised cross-entropy, a function of cross-entropy.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import (
    conditions,
    console,
    interleave,
    memory_in_fresh_process,
    peak_extra_bytes,
    product_rate,
    ratios,
    release_freed,
    show,
)
from torch import Tensor

from lightning_losses import linear_cross_entropy
from lightning_losses.environment.atomic_files import write_json
from lightning_losses.kernels.cross_entropy.avx512 import unsupported
from lightning_losses.kernels.cross_entropy.peers import has_torch_operation, installed
from lightning_losses.losses import GCE

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Forward = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), target)


def compiled() -> Forward:
    return torch.compile(plain, dynamic=False)


def torch_chunked(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.linear_cross_entropy(hidden, weight, target, options=torch.nn.LinearCrossEntropyOptions())


def cce(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    import cut_cross_entropy

    return cut_cross_entropy.linear_cross_entropy(hidden, weight, target, impl="torch_compile")


def variants(names: list[str], dtype: torch.dtype) -> dict[str, Forward]:
    """The requested variants that can run here."""
    gce = GCE().of_cross_entropy
    compiled_walk = unsupported(*(torch.zeros(1, 1, dtype=dtype),) * 2) is None
    offered: dict[str, Callable[[], Forward] | None] = {
        "plain": lambda: plain,
        "avx512": (lambda: partial(linear_cross_entropy, impl="avx512")) if compiled_walk else None,
        "avx512-512": (lambda: partial(linear_cross_entropy, impl="avx512", chunk=512)) if compiled_walk else None,
        "avx512-gce": (lambda: partial(linear_cross_entropy, impl="avx512", row_function=gce))
        if compiled_walk
        else None,
        "chunked": lambda: partial(linear_cross_entropy, impl="chunked"),
        "chunked-gce": lambda: partial(linear_cross_entropy, impl="chunked", row_function=gce),
        "chunked-256": lambda: partial(linear_cross_entropy, impl="chunked", chunk=256),
        "chunked-512": lambda: partial(linear_cross_entropy, impl="chunked", chunk=512),
        "chunked-float32-sums": lambda: partial(linear_cross_entropy, impl="chunked", accum_dtype=torch.float32),
        "recompute": lambda: partial(linear_cross_entropy, impl="recompute"),
        "recompute-gce": lambda: partial(linear_cross_entropy, impl="recompute", row_function=gce),
        "torch": (lambda: torch_chunked) if has_torch_operation() else None,
        "torch.compile": compiled,
        "cce": (lambda: cce) if installed("cut_cross_entropy") else None,
    }
    return {name: make() for name in names if (make := offered[name]) is not None}


def data(dtype: torch.dtype, tokens: int, width: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width).to(dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width) / width**0.5).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (tokens,))


def step(forward: Forward, hidden: Tensor, weight: Tensor, target: Tensor) -> None:
    hidden.grad = weight.grad = None
    forward(hidden, weight, target).backward()


def memory(name: str, dtype: str, tokens: int, width: int, vocabulary: int) -> None:
    torch.set_num_threads(1)
    forward = variants([name], DTYPES[dtype])[name]
    hidden, weight, target = data(DTYPES[dtype], tokens, width, vocabulary)
    # The second step counts: code, read from disk or compiled for the shapes, is not taken for the step's memory.
    step(forward, hidden, weight, target)
    hidden.grad = weight.grad = None
    release_freed()
    print(json.dumps(peak_extra_bytes(lambda: step(forward, hidden, weight, target), [hidden, weight]) / 1e6))


def case(
    names: list[str],
    dtype: str,
    tokens: int,
    width: int,
    vocabulary: int,
    rounds: int,
    threads: int,
    with_memory: bool,
    baseline: str,
) -> dict[str, dict[str, float | None]]:
    tensors = data(DTYPES[dtype], tokens, width, vocabulary)
    found = variants(names, DTYPES[dtype])
    title = f"{dtype} N={tokens} D={width} V={vocabulary}"
    times = interleave(
        {name: partial(step, forward, *tensors) for name, forward in found.items()}, rounds, threads, title
    )
    rate = product_rate(DTYPES[dtype], width, vocabulary, threads)
    floor = 6 * tokens * width * vocabulary / rate
    shape = ("--dtype", dtype, "--tokens", tokens, "--width", width, "--vocabulary", vocabulary)
    megabytes = {
        name: memory_in_fresh_process(__file__, "--memory", name, *shape) if with_memory else None for name in found
    }
    result = {
        name: {
            "ratio": ratio.median,
            "low": ratio.low,
            "high": ratio.high,
            "over_floor": statistics.median(times[name]) / floor,
            "megabytes": megabytes[name],
        }
        for name, ratio in ratios(times, baseline).items()
    }
    whole = megabytes[baseline]
    show(
        f"{title}, {threads} thread(s), floor rate {rate / 1e9:.0f} GF/s",
        ["variant", f"time / {baseline}", "time / floor", "MB", f"of {baseline}"],
        [
            [
                name,
                str(ratio),
                f"{result[name]['over_floor']:.2f}",
                "-" if megabytes[name] is None else f"{megabytes[name]:.0f}",
                "-" if megabytes[name] is None or not whole else f"{100 * megabytes[name] / whole:.1f} %",
            ]
            for name, ratio in ratios(times, baseline).items()
        ],
    )
    return result


def plot(path: Path, rounds: int) -> None:
    """Milliseconds over N and over V, which should be straight lines through the origin."""
    from lightning_losses.plots.style import new_figure, paper_style, save_figure

    sweeps = [
        ("tokens N (V = 16384)", [(n, 256, 16384) for n in (512, 1024, 2048, 4096)], 0),
        ("vocabulary V (N = 1024)", [(1024, 256, v) for v in (8192, 16384, 32768, 65536)], 2),
    ]
    names = ["plain", "avx512", "chunked", "recompute"]
    results: list[dict[str, list[float]]] = []
    for _, shapes, _ in sweeps:
        found: dict[str, list[float]] = {name: [] for name in names}
        for shape in shapes:
            tensors = data(torch.float32, *shape)
            times = interleave(
                {name: partial(step, forward, *tensors) for name, forward in variants(names, torch.float32).items()},
                rounds,
                1,
                str(shape),
            )
            for name, seconds in times.items():
                found[name].append(1e3 * statistics.median(seconds))
        results.append(found)
    with paper_style():
        figure, axes = new_figure(columns=2, width=3.5, height=2.8)
        for axis, (label, shapes, place), found in zip(axes, sweeps, results, strict=True):
            for name, milliseconds in found.items():
                axis.plot([shape[place] for shape in shapes], milliseconds, marker="o", markersize=4, label=name)
            axis.set(xlabel=label, ylabel="ms of CPU time, float32, D = 256", ylim=(0, None), xlim=(0, None))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=4)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--width", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["plain", "avx512", "avx512-512", "chunked", "recompute", "torch", "torch.compile", "cce"],
    )
    parser.add_argument("--baseline", default="plain", help="one of the variants")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory", help="print the megabytes of one variant alone")
    parser.add_argument("--quick", action="store_true", help="one small size, two rounds, no compiler")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    parser.add_argument("--plot", type=Path, help="plot cost over N and V instead")
    options = parser.parse_args()
    if options.memory:
        memory(options.memory, options.dtype[0], options.tokens[0], options.width[0], options.vocabulary[0])
        return
    if options.plot:
        plot(options.plot, 2 if options.quick else options.rounds)
        return
    if options.quick:
        options.tokens, options.width, options.vocabulary, options.rounds = [1024], [256], [8192], 2
        options.variants = ["plain", "avx512", "chunked", "recompute", "torch"]
    console.print(conditions())
    results = {}
    for dtype, *shape in itertools.product(options.dtype, options.tokens, options.width, options.vocabulary):
        results[f"{dtype} {shape}"] = case(
            options.variants, dtype, *shape, options.rounds, options.threads, not options.no_memory, options.baseline
        )
    console.print(conditions())
    if options.output:
        write_json(options.output, results)


if __name__ == "__main__":
    main()
