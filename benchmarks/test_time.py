"""What adaptation at test time costs: each method's step against evaluations of the same batch in the same round.

    python benchmarks/test_time.py --quick
    python benchmarks/test_time.py

Prints, on one CPU thread, the median milliseconds of an evaluation under `torch.inference_mode` and of each method's
call, and their ratio: TENT shall cost at most 2.2 evaluations, and does where convolutions outweigh the rest. The
network is of convolutions, batch normalisation and ReLU, with channels last. "by hand" is TENT as its authors' code has
it: a network in training mode without running statistics, and ``backward``. Selecting methods differ by how often they
find something; here they select all.
"""

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
from measure import conditions, console, interleave, ratios, show
from torch import Tensor, nn

from lightning_losses.networks import SmallCNN
from lightning_losses.test_time import EATA, SAR, Adaptation, DeYO, RobustMeanTeacher, Tent, TestTimeMethod

METHODS: dict[str, TestTimeMethod | None] = {
    "statistics": None,
    "tent": Tent(),
    "sar": SAR(1.0, reset_below=0.0),
    "eata": EATA(1.0, 1.0),
    "deyo": DeYO(1.0, plpd_threshold=-1.0),
    "robust_mean_teacher": RobustMeanTeacher(),
}


def by_hand(network: nn.Module, images: Tensor) -> Callable[[], object]:
    """TENT as its authors' code has it."""
    own = copy.deepcopy(network).train().requires_grad_(False)
    adapted = []
    for layer in own.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
            adapted += [layer.weight.requires_grad_(), layer.bias.requires_grad_()]
    optimizer = torch.optim.Adam(adapted, lr=1e-3)

    def step() -> None:
        log_p = own(images).log_softmax(dim=-1)
        optimizer.zero_grad()
        (-(log_p.exp() * log_p).sum(dim=-1).mean()).backward()
        optimizer.step()

    return step


def measured(batch: int, width: int, size: int, rounds: int) -> list[list[str]]:
    """A row for each method."""
    torch.manual_seed(0)
    last = torch.channels_last
    network = SmallCNN(width=width, depth=2, normalisation="batch").eval().to(memory_format=last)
    images = torch.randn(batch, 1, size, size).to(memory_format=last)

    def evaluation() -> None:
        with torch.inference_mode():
            network(images)

    def adapting(method: TestTimeMethod | None) -> Callable[[], object]:
        own = copy.deepcopy(network)
        # Never left: the process ends with it.
        Adaptation(own, method).__enter__()
        return lambda: own(images)

    variants: dict[str, Callable[[], object]] = {"evaluation": evaluation, "by hand": by_hand(network, images)}
    variants |= {name: adapting(method) for name, method in METHODS.items()}
    times = interleave(variants, rounds, threads=1, title=f"batch {batch}, width {width}, {size} pixels")
    ratio = ratios(times, "evaluation")
    return [
        [str(batch), str(width), str(size), name, f"{1000 * statistics.median(times[name]):.1f}", str(ratio[name])]
        for name in variants
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size, few rounds")
    quick = parser.parse_args().quick
    sizes = [(50, 16, 28)] if quick else [(50, 16, 28), (64, 32, 32), (64, 64, 32), (32, 128, 32)]
    rows = [row for size in sizes for row in measured(*size, rounds=7 if quick else 15)]
    show("Adaptation at test time", ["batch", "width", "pixels", "method", "ms", "evaluations"], rows)
    console.print(conditions())


if __name__ == "__main__":
    main()
