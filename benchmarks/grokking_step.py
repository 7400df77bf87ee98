"""How much a step of the grokking recipes costs, as a multiple of a bare PyTorch loop doing the same mathematics.

    python benchmarks/grokking_step.py [--check] [--rounds 5] [--only parity]

One process, one thread. The recipe's side is the experiment as `recipes/train.py` runs it, with its trainer, data,
validation, monitors, metrics file and checkpoints at the experiment's intervals. The bare side is a simple
hand-written loop: the same network, tensors, optimizer and intervention, the same evaluation of both splits at the
same steps, but no monitors and no checkpoints. Both are timed from the first step to the end of the last. Rounds
alternate, and the fastest round of each side counts, since other programs only add time. "ratio" is the ratio of
processor times, "medians" the ratio of their medians, and "wall" the ratio of wall times, which include the recipe's
waits for the disk. "unwatched" is the ratio without monitors, except the one of memorisation. With --check a ratio
above 1.3 gives the exit code 1.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from torch import Tensor, nn

from lightning_losses.callbacks.monitors.grokking_monitor import GrokkingMonitor
from lightning_losses.experiments.kinds.grok import prepare, settings_of
from lightning_losses.experiments.training.training import callbacks_of
from lightning_losses.losses.classification.stablemax_cross_entropy import StableMaxCrossEntropy
from lightning_losses.optim.grokfast import GrokfastEMA
from lightning_losses.optim.orthogonal_gradient import orthogonalize_gradients_
from lightning_losses.optim.weight_norm import project_weight_norm_, scale_weights_, weight_norm

MOST = 1.3
Named = dict[str, nn.Parameter]


def orthogonal(parameters: Named) -> Callable[[], None]:
    weights = list(parameters.values())
    return lambda: orthogonalize_gradients_(weights, [weight.grad for weight in weights if weight.grad is not None])


def grokfast(parameters: Named) -> Callable[[], None]:
    average = GrokfastEMA()
    return lambda: average.filter_({name: p.grad for name, p in parameters.items() if p.grad is not None})


def projected(parameters: Named) -> Callable[[], None]:
    weights = list(parameters.values())
    scale_weights_(weights, 0.8)
    norm = float(weight_norm(weights))
    return lambda: project_weight_norm_(weights, norm)


def nothing(parameters: Named) -> None:
    return None


class Task(NamedTuple):
    name: str
    experiment: str
    run: str
    # A multiple of the experiment's epoch.
    steps: int
    loss: Callable[..., Tensor] = F.cross_entropy
    before_step: Callable[[Named], Callable[[], None] | None] = nothing
    after_step: Callable[[Named], Callable[[], None] | None] = nothing


TASKS = [
    Task("addition mod 113", "grok_perpgrad", "cross_entropy", 50),
    Task("addition mod 113, orthogonal", "grok_perpgrad", "perpgrad", 50, before_step=orthogonal),
    Task("addition mod 71, Grokfast", "grok_compare", "grokfast_ema", 50, before_step=grokfast),
    Task("addition mod 71, norm", "grok_compare", "weight_norm_projection", 50, after_step=projected),
    Task("addition mod 31", "grok_precision", "float32", 500),
    Task("sparse parity", "grok_stablemax", "parity_cross_entropy", 500),
    Task("sparse parity, StableMax", "grok_stablemax", "parity_stablemax", 500, loss=StableMaxCrossEntropy()),
    Task("XOR clusters", "grok_xor", "gradient_descent", 10),
    Task("lazy to rich", "grok_lazy_rich", "rich", 5000, loss=F.mse_loss),
]


class Seconds(NamedTuple):
    processor: float
    wall: float


def since(start: Seconds | None = None) -> Seconds:
    processor, wall = start or (0.0, 0.0)
    return Seconds(time.process_time() - processor, time.perf_counter() - wall)


class Clock(L.Callback):
    """Times training from the first step on; earlier work is done only once."""

    start: Seconds
    seconds: Seconds

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 0:
            self.start = since()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = since(self.start)


def recipe(task: Task, config: DictConfig, folder: Path, watched: bool = True) -> Seconds:
    # The clock is not of the experiment: it has no say in how many steps a batch is.
    clock = Clock()
    callbacks = [callback for callback in callbacks_of(config.callbacks) if watched or not unneeded(callback)]
    trainer, module, data = prepare(config, callbacks, folder / "checkpoints", folder / "metrics.jsonl")
    trainer.callbacks.insert(0, clock)  # type: ignore[attr-defined]
    trainer.fit(module, data)
    return clock.seconds


def unneeded(callback: L.Callback) -> bool:
    return hasattr(callback, "every_n_steps") and not isinstance(callback, GrokkingMonitor)


def bare(task: Task, config: DictConfig, folder: Path) -> Seconds:
    _, module, data = prepare(config, [], folder, folder / "metrics.jsonl")
    data.setup()
    network: nn.Module = module.network  # type: ignore[assignment]
    parameters = dict(network.named_parameters())
    optimizer = module.make_optimizer(parameters.values())  # type: ignore[operator]
    before, after = task.before_step(parameters), task.after_step(parameters)
    inputs, target = data.train["inputs"], data.train["target"]
    every = config.trainer.val_check_interval
    curves: list[tuple[float, ...]] = []

    def accuracy(logits: Tensor, target: Tensor) -> float:
        return (logits.argmax(dim=-1) == target).float().mean().item()

    # Lightning's, which has every step of Adam look for GPUs by opening a library: a loop without Lightning has it not.
    by_library = os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    start = since()
    for step in range(task.steps):
        logits = network(inputs)
        loss = task.loss(logits, target)
        optimizer.zero_grad()
        loss.backward()
        if before:
            before()
        optimizer.step()
        if after:
            after()
        if step % every == 0:
            curves.append((loss.item() if task.loss is F.mse_loss else accuracy(logits, target),))
        if (step + 1) % every == 0:
            with torch.no_grad():
                logits = network(data.test["inputs"])
                if task.loss is F.mse_loss:
                    curves.append((F.mse_loss(logits, data.test["target"]).item(),))
                else:
                    error = F.cross_entropy(logits, data.test["target"]).item()
                    curves.append((accuracy(logits, data.test["target"]), error))
    seconds = since(start)
    if by_library is not None:
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = by_library
    return seconds


def measured(task: Task, rounds: int, folder: Path) -> Iterator[tuple[Seconds, Seconds, Seconds]]:
    with initialize_config_module("lightning_losses.conf", version_base="1.3"):
        experiment = compose("train", [f"experiment={task.experiment}"])
    config = settings_of(experiment, experiment.runs[task.run])
    config.trainer.max_steps = task.steps
    for number in range(rounds + 1):
        found = (
            bare(task, config, folder),
            recipe(task, config, folder, watched=False),
            recipe(task, config, folder),
        )
        # The first round warms up.
        if number > 0:
            yield found


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--check", action="store_true", help=f"end with 1 if a ratio is above {MOST}")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", default="", help="tasks whose names have this in them")
    options = arguments.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(f"{'task':<29} {'bare ms':>8} {'recipe ms':>10} {'ratio':>6} {'unwatched':>10} {'medians':>8} {'wall':>6}")
    worst = 0.0
    for task in (task for task in TASKS if options.only in task.name):
        with tempfile.TemporaryDirectory() as folder:
            sides = list(zip(*measured(task, options.rounds, Path(folder)), strict=True))
        bare_side, unwatched, ours = ([seconds.processor / task.steps * 1e3 for seconds in side] for side in sides)
        wall = [min(seconds.wall for seconds in side) for side in sides]
        ratio = min(ours) / min(bare_side)
        worst = max(worst, ratio)
        print(
            f"{task.name:<29} {min(bare_side):>8.3f} {min(ours):>10.3f} {ratio:>6.2f} "
            f"{min(unwatched) / min(bare_side):>10.2f} "
            f"{statistics.median(ours) / statistics.median(bare_side):>8.2f} {wall[2] / wall[0]:>6.2f}",
            flush=True,
        )
    print(f"the worst ratio: {worst:.2f}")
    return int(options.check and worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
