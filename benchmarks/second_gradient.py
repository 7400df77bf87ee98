"""What a step with a second gradient costs, in steps of the optimizer alone.

    python benchmarks/second_gradient.py [--check] [--rounds 5] [--steps 20] [--threads 1]

Each variant trains the same network in a Lightning Trainer on the same batches, by AdamW; rounds of all variants are
interleaved, and a round's time is that of its steps, without the Trainer's start. A ratio is to the optimizer alone in
the same round. "loop" is SAM in a loop without Lightning, tensor by tensor, to such a loop of the optimizer alone. With
--check a median of SAM above 2.05 gives the exit code 1. The convolutions have BatchNorm; in the wide perceptron the
weights are large beside the batch, so that moving them shows most.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from measure import Ratio, console, ratios
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_losses.callbacks import ASAM, SAM, SurrogateGradientNorm
from lightning_losses.networks import SmallCNN

Batches = list[tuple[Tensor, Tensor]]


def convolutions() -> tuple[nn.Module, Tensor]:
    return SmallCNN(width=32), torch.randn(128, 1, 28, 28)


def wide_perceptron() -> tuple[nn.Module, Tensor]:
    layers = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    return layers, torch.randn(128, 784)


MOST = 2.05
NETWORKS = {"convolutions": convolutions, "wide perceptron": wide_perceptron}
CALLBACKS: dict[str, Callable[[], list[L.Callback]]] = {
    "optimizer alone": list,
    "SAM": lambda: [SAM()],
    "ASAM": lambda: [ASAM()],
    "surrogate gradient norm": lambda: [SurrogateGradientNorm(predictions="logits")],
}


class Learner(L.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        logits = self.network(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


class Clock(L.Callback):
    """The seconds of all steps but the first, which warms up."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.seconds = clock, 0.0

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, number: int) -> None:
        if number == 1:
            self.began = self.clock()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, number: int
    ) -> None:
        self.seconds = self.clock() - getattr(self, "began", self.clock())


def by_trainer(network: nn.Module, data: Batches, callbacks: list[L.Callback], clock: Callable[[], float]) -> float:
    watch = Clock(clock)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*callbacks, watch],
    )  # fmt: skip
    trainer.fit(Learner(network), DataLoader(data, batch_size=None))
    return watch.seconds


def by_loop(network: nn.Module, data: Batches, rho: float | None, clock: Callable[[], float]) -> float:
    optimizer, began = torch.optim.AdamW(network.parameters()), 0.0
    for number, (inputs, target) in enumerate(data):
        if number == 1:
            began = clock()
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), target).backward()
        if rho is not None:
            with torch.no_grad():
                gradients = [p.grad for p in network.parameters() if p.grad is not None]
                norm = torch.stack([gradient.norm() for gradient in gradients]).norm() + 1e-12
                before = [p.clone() for p in network.parameters()]
                for p in network.parameters():
                    p.add_(p.grad * (rho / norm))
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), target).backward()
            with torch.no_grad():
                for p, old in zip(network.parameters(), before, strict=True):
                    p.copy_(old)
        optimizer.step()
    return clock() - began


def measured(make: Callable[[], tuple[nn.Module, Tensor]], rounds: int, steps: int, threads: int) -> dict[str, Ratio]:
    torch.manual_seed(0)
    network, inputs = make()
    data = [(inputs + 0.1 * torch.randn_like(inputs), torch.randint(10, (len(inputs),))) for _ in range(steps + 1)]
    clock = time.process_time if threads == 1 else time.perf_counter
    variants: dict[str, Callable[[], float]] = {
        name: lambda made=made: by_trainer(network, data, made(), clock)  # type: ignore[misc]
        for name, made in CALLBACKS.items()
    }
    variants["plain"] = lambda: by_loop(network, data, None, clock)
    variants["loop"] = lambda: by_loop(network, data, 0.05, clock)
    times: dict[str, list[float]] = {name: [] for name in variants}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("rounds", total=(rounds + 1) * len(variants))
        for round_ in range(rounds + 1):
            for name, run in variants.items():
                seconds = run()
                progress.advance(task)
                if round_:
                    times[name].append(seconds)
    loops: Mapping[str, Ratio] = ratios({name: times.pop(name) for name in ("plain", "loop")}, "plain")
    return {**ratios(times, "optimizer alone"), "loop": loops["loop"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, make in NETWORKS.items():
        for variant, ratio in measured(make, options.rounds, options.steps, options.threads).items():
            console.print(f"| {name} | {variant} | {ratio} |")
            if options.check and variant == "SAM" and ratio.median > MOST:
                sys.exit(f"{name}: SAM costs {ratio} steps of the optimizer alone, above {MOST}.")


if __name__ == "__main__":
    main()
