"""What attacks cost beside the passes that they can't do without, and beside torchattacks and foolbox.

    python benchmarks/attacks.py --quick
    python benchmarks/attacks.py

Prints the median milliseconds of CPU time on one thread, and the ratio to the bare passes in the same round: K times a
forward pass of cross-entropy and a backward pass down to the inputs, with frozen weights. An attack of K steps shall
cost at most 1.1 of them. "leaving" lets rows go as soon as they fool. The results of the same attack in float64 are
compared first; a library that is not installed is left out.
"""

import argparse
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from measure import conditions, console, interleave, ratios, show
from torch import Tensor, nn
from torch.nn import functional

from lightning_losses.attacks import PGD, attacking
from lightning_losses.networks import SmallCNN

EPSILON = {"linf": 0.1, "l2": 1.0}
MOST = 1.1
# How far results may be apart: foolbox and torchattacks add to a norm, or round otherwise.
TOLERANCE = 1e-6
Attacking = Callable[[nn.Module, Tensor, Tensor], Tensor]


def bare_passes(steps: int) -> Attacking:
    """As many passes as the attack has steps, and nothing else."""

    def run(network: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        with attacking(network):
            for _ in range(steps):
                x = inputs.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(functional.cross_entropy(network(x), target, reduction="sum"), x)
        return gradient

    return run


def ours(norm: Any, steps: int, leaving: bool) -> Attacking:
    """PGD without a random start."""
    return PGD(
        epsilon=EPSILON[norm], step_size=EPSILON[norm] / 4, steps=steps, norm=norm, random_start="none",
        stop_when_fooled=leaving,
    )  # fmt: skip


def torchattacks_(norm: str, steps: int) -> Attacking:
    """The same of torchattacks, given a network in evaluation mode."""
    import torchattacks

    kind = torchattacks.PGD if norm == "linf" else torchattacks.PGDL2
    settings = {"eps": EPSILON[norm], "alpha": EPSILON[norm] / 4, "steps": steps, "random_start": False}
    return lambda network, inputs, target: kind(network, **settings)(inputs, target)


def foolbox_(norm: str, steps: int) -> Attacking:
    """The same of foolbox."""
    import foolbox

    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    attack = kind(abs_stepsize=EPSILON[norm] / 4, steps=steps, random_start=False)

    def run(network: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        # Its call also says which rows fool, which costs a pass; this is the attack alone.
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
        attacked: Tensor = attack.run(model, inputs, target, epsilon=EPSILON[norm])
        return attacked

    return run


def case(rows: int, size: int, width: int, depth: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in evaluation mode, random images and the classes that it tells of them."""
    torch.manual_seed(0)
    network = SmallCNN(num_classes=10, width=width, depth=depth).eval()
    inputs = torch.rand(rows, 1, size, size)
    with torch.no_grad():
        return network, inputs, network(inputs).argmax(dim=1)


def check_alike(runs: dict[str, Attacking], network: nn.Module, inputs: Tensor, target: Tensor) -> None:
    """The same results of all, in float64."""
    network.double()
    results = {name: run(network, inputs.double(), target) for name, run in runs.items()}
    network.float()
    apart = {name: (result - results["ours"]).abs().max().item() for name, result in results.items()}
    assert max(apart.values()) <= TOLERANCE, apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--size", type=int, default=28, help="pixels of an image's side")
    parser.add_argument("--network", type=int, nargs=2, default=[16, 2], metavar=("WIDTH", "DEPTH"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.size, arguments.network, arguments.steps, arguments.rounds = 8, 12, [4, 1], 4, 2
    network, inputs, target = case(arguments.rows, arguments.size, *arguments.network)
    rows = []
    for norm in EPSILON:
        peers = {
            name: make(norm, arguments.steps)
            for name, make in {"torchattacks": torchattacks_, "foolbox": foolbox_}.items()
            if find_spec(name)
        }
        alike = {"ours": ours(norm, arguments.steps, leaving=False), **peers}
        check_alike(alike, network, inputs, target)
        runs = {"bare passes": bare_passes(arguments.steps), **alike, "leaving": ours(norm, arguments.steps, True)}
        times = interleave(
            {name: (lambda run=run: run(network, inputs, target)) for name, run in runs.items()},
            arguments.rounds,
            1,
            norm,
        )
        for name, ratio in ratios(times, "bare passes").items():
            rows.append([norm, name, f"{1e3 * statistics.median(times[name]):.1f}", str(ratio)])
            if name == "ours" and not arguments.quick:
                told = "within" if ratio.median <= MOST else "ABOVE"
                console.print(f"{norm}: {ratio.median:.3f} of the bare passes, {told} {MOST}")
    title = f"K={arguments.steps} steps, {arguments.rows} images of {arguments.size}x{arguments.size}"
    show(title, ["norm", "attack", "ms", "of bare passes"], rows)
    missing = [name for name in ("torchattacks", "foolbox") if not find_spec(name)]
    if missing:
        console.print(f"not installed: {', '.join(missing)}")
    console.print(conditions())


if __name__ == "__main__":
    main()
