"""The spherical Z-loss of a head, forward and backward, against the vocabulary: with logits, and without.

    python benchmarks/spherical_z_loss.py --quick
    python benchmarks/spherical_z_loss.py --plot time.png

Prints, for each vocabulary, the median milliseconds of CPU time on one thread, for value and gradients:

- "logits": the Z-loss of the logits;
- "cross-entropy": the fused cross-entropy of the same head, for comparison;
- "step": without logits; moments of the head and gradient of its weight included;
- "tokens": without logits, moments given, gradient by the hidden states: what each further batch of a step costs.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import torch
from measure import conditions, console, interleave, show
from torch import Tensor

from lightning_losses import linear_cross_entropy, linear_spherical_z_loss
from lightning_losses.environment.atomic_files import write_json
from lightning_losses.kernels.linear_spherical_z_loss import HeadMoments, head_moments
from lightning_losses.losses import SphericalZLoss


def with_logits(hidden: Tensor, weight: Tensor, target: Tensor) -> None:
    SphericalZLoss()(hidden @ weight.T, target).backward()


def cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor) -> None:
    linear_cross_entropy(hidden, weight, target).backward()


def whole_step(hidden: Tensor, weight: Tensor, target: Tensor) -> None:
    linear_spherical_z_loss(hidden, weight, target).backward()


def tokens_alone(hidden: Tensor, weight: Tensor, target: Tensor, moments: HeadMoments) -> None:
    linear_spherical_z_loss(hidden, weight.detach(), target, moments).backward()


def measured(tokens: int, width: int, vocabulary: int, rounds: int) -> dict[str, float]:
    """Milliseconds of each variant."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = (torch.randn(vocabulary, width) / width**0.5).requires_grad_()
    target = torch.randint(vocabulary, (tokens,))
    variants = {
        "logits": partial(with_logits, hidden, weight, target),
        "cross-entropy": partial(cross_entropy, hidden, weight, target),
        "step": partial(whole_step, hidden, weight, target),
        "tokens": partial(tokens_alone, hidden, weight, target, head_moments(weight.detach())),
    }

    def alone(step: partial[None]) -> None:
        step()
        # Each pays for the memory of its own gradients.
        hidden.grad = weight.grad = None

    times = interleave({name: partial(alone, step) for name, step in variants.items()}, rounds, 1, f"V={vocabulary}")
    return {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}


def plot(path: Path, results: dict[int, dict[str, float]], tokens: int, width: int) -> None:
    """Time against the vocabulary."""
    from lightning_losses.plots.style import new_figure, paper_style, save_figure

    labels = {
        "logits": "Z-loss of the logits",
        "cross-entropy": "fused cross-entropy",
        "step": "Z-loss without logits, with moments and gradient of the weight",
        "tokens": "Z-loss without logits, tokens alone",
    }
    with paper_style():
        figure, (axis,) = new_figure(width=4.2, height=3.6)
        for name, label in labels.items():
            times = [result[name] for result in results.values()]
            axis.plot(list(results), times, marker="o", markersize=4, label=label)
        axis.set(yscale="log", xlabel="vocabulary V", ylabel=f"ms, N = {tokens}, D = {width}, float32")
        axis.set_xscale("log", base=2)
        # Beside the lines, none of which it may hide.
        figure.legend(loc="outside lower left")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[2**power for power in range(12, 18)])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two small vocabularies, two rounds")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    parser.add_argument("--plot", type=Path, help="draw time against the vocabulary")
    options = parser.parse_args()
    if options.quick:
        options.tokens, options.width, options.vocabulary, options.rounds = 256, 64, [1024, 4096], 2
    console.print(conditions())
    results = {v: measured(options.tokens, options.width, v, options.rounds) for v in options.vocabulary}
    show(
        f"float32 N={options.tokens} D={options.width}, ms of CPU time",
        ["V", *next(iter(results.values()))],
        [[str(v), *(f"{time:.1f}" for time in result.values())] for v, result in results.items()],
    )
    console.print(conditions())
    if options.output:
        write_json(options.output, results)
    if options.plot:
        plot(options.plot, results, options.tokens, options.width)


if __name__ == "__main__":
    main()
