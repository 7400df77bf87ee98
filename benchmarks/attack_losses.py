"""What is left of an adversarially trained network's accuracy under each loss, by the number of steps.

    python benchmarks/attack_losses.py --quick
    python benchmarks/attack_losses.py

Small convolutional networks are trained on attacked digits, one for each seed, and their test accuracy under PGD from a
uniform start is printed: the mean over seeds, with its standard error. All attacks have the same ball; PGD's steps are
twice its radius over their number. Lower is a stronger attack. PMA takes twice as many passes as its number of steps.
"""

import argparse
import statistics
from typing import Any, get_args

import torch
from measure import conditions, console, show
from rich.progress import track
from torch.nn import functional

from lightning_losses.attacks import FGSM, PGD, PMA
from lightning_losses.attacks.attack import Attack
from lightning_losses.attacks.for_data import for_data
from lightning_losses.attacks.losses import AttackLossName
from lightning_losses.data import Digits
from lightning_losses.networks import SmallCNN

EPSILON = 0.15


def attacks(steps: list[int]) -> dict[tuple[str, int], Attack]:
    """By name and number of steps."""
    climbing = {
        (f"PGD {loss}", count): PGD(epsilon=EPSILON, step_size=min(2 / count, 1) * EPSILON, steps=count, loss=loss)
        for loss in get_args(AttackLossName)
        for count in steps
    }
    margins = {("PMA", count): PMA(epsilon=EPSILON, steps=count) for count in steps}
    return {("FGSM", 1): FGSM(epsilon=EPSILON), **climbing, **margins}


def trained(data: Digits, epochs: int, seed: int) -> SmallCNN:
    """A network that never saw a clean image."""
    torch.manual_seed(seed)
    network, generator = SmallCNN(width=8), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    attack = for_data(PGD(epsilon=EPSILON, step_size=EPSILON / 3, steps=5), data)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train.inputs), generator=generator).split(64):
            attacked = attack(network, data.train.inputs[rows], data.train.target[rows], generator)
            optimizer.zero_grad()
            functional.cross_entropy(network(attacked), data.train.target[rows]).backward()
            optimizer.step()
    return network.eval()


def shown(accuracies: list[float]) -> str:
    """Mean and standard error, in percent."""
    error = statistics.stdev(accuracies) / len(accuracies) ** 0.5 if len(accuracies) > 1 else 0.0
    return f"{100 * statistics.mean(accuracies):.1f} ± {100 * error:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 5, 10, 50])
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch and few steps, to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.epochs, arguments.steps = 1, 1, [2]
    data: Any = Digits(batch_size=64)
    data.setup()
    inputs, target = data.test.inputs, data.test.target
    accuracies: dict[tuple[str, int], list[float]] = {}
    for seed in track(range(arguments.seeds), "seeds", console=console, transient=True):
        network = trained(data, arguments.epochs, seed)
        for name, attack in {("none", 0): None, **attacks(arguments.steps)}.items():
            attacked = inputs if attack is None else for_data(attack, data)(network, inputs, target)
            with torch.no_grad():
                right = (network(attacked).argmax(dim=1) == target).float().mean().item()
            accuracies.setdefault(name, []).append(right)
    counts = sorted({count for _, count in accuracies})
    rows = [
        [name, *(shown(accuracies[name, count]) if (name, count) in accuracies else "" for count in counts)]
        for name in dict.fromkeys(name for name, _ in accuracies)
    ]
    show(f"test accuracy in percent, ε = {EPSILON}, by steps", ["attack", *map(str, counts)], rows)
    console.print(conditions())


if __name__ == "__main__":
    main()
