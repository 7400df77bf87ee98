"""What the mixin, the objective and the recipe's callbacks cost in a training step, over writing the step by hand.

    python benchmarks/step_overhead.py

One process, one thread, processor time. All sides train the same network on the same batches with the same optimizer:

- bare: a loop without Lightning, which logs nothing.
- by hand, silent: a LightningModule whose step says the mathematics itself and returns `loss`, `logits` and `target`
  for callbacks. It logs nothing.
- by hand: that, and it logs the means over the epoch of the total and of each term by one `log_dict`, as one would
  write it: the same numbers as the mixin logs.
- mixin: the same by `ObjectiveMixin` or `DistillationMixin` and an `Objective`.
- callbacks: that, with the callbacks that every run of the train recipe has.

Rounds alternate between the sides. The microseconds are the median over rounds of the difference to the side by hand in
the same round; the ratio is what they are of that side's median. The linear network is there since microseconds show
best beside it. The limits, 2 % (of the small CNN's step) and 100 microseconds over the side by hand, are checked with
`--check`; the difference to the silent side is shown as well, which has less to do.
"""

import argparse
import itertools
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from measure import conditions, show
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_losses.callbacks import History, NumericsGuard
from lightning_losses.checkpoints import EpochSeed, LastCheckpoint
from lightning_losses.checkpoints.atomic_checkpoints import AtomicCheckpoints
from lightning_losses.losses import KD, CrossEntropy
from lightning_losses.mixins import DistillationMixin, ObjectiveMixin
from lightning_losses.networks import SmallCNN
from lightning_losses.objective import Objective, Term

BATCH, CLASSES, RATIO, MICROSECONDS = 64, 10, 1.02, 100.0
Batch = dict[str, Tensor]


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, CLASSES))


def cnn(width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return SmallCNN(num_classes=CLASSES, width=width)


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.01)


class ByHand(L.LightningModule):
    def __init__(self, network: nn.Module, teacher: nn.Module | None, silent: bool) -> None:
        super().__init__()
        self.network = network
        self.silent = silent
        self.__dict__["teacher"] = teacher

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        logits = self.network(batch["inputs"])
        ce = F.cross_entropy(logits, batch["target"])
        logged = {"train/loss/ce": ce.detach()}
        loss = ce
        if self.teacher is not None:
            with torch.no_grad():
                teacher_logits = self.teacher(batch["inputs"])
            own, other = (torch.log_softmax(scores / 4, dim=-1) for scores in (logits, teacher_logits))
            kd = 16 * F.kl_div(own, other, reduction="batchmean", log_target=True)
            logged["train/loss/kd"] = kd.detach()
            loss = 0.1 * ce + 0.9 * kd
        if not self.silent:
            logged["train/loss"] = loss.detach()
            self.log_dict(logged, on_step=False, on_epoch=True, batch_size=len(logits))
        return {"loss": loss, "logits": logits, "target": batch["target"]}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self.network)


class _Mixed(L.LightningModule):
    network: nn.Module
    apply_objective: Callable[..., Any]

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return self.apply_objective(logits=self.network(batch["inputs"]), **batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self.network)


class Plain(ObjectiveMixin, _Mixed):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.objective = Objective({"ce": CrossEntropy()})


class Distilled(DistillationMixin, _Mixed):
    def __init__(self, network: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.teacher = teacher
        self.objective = Objective({"ce": Term(CrossEntropy(), 0.1), "kd": Term(KD(temperature=4.0), 0.9)})


class Clock(L.Callback):
    """From the third step to the last: what happens once is no cost of a step."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            self.started = time.process_time()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == trainer.num_training_batches - 1:
            self.seconds = (time.process_time() - self.started) / (trainer.num_training_batches - 3)


def bare(network: nn.Module, teacher: nn.Module | None, batches: list[Batch]) -> float:
    optimizer = optimizer_of(network)
    for number, batch in enumerate(batches):
        if number == 3:
            started = time.process_time()
        optimizer.zero_grad()
        logits = network(batch["inputs"])
        loss = F.cross_entropy(logits, batch["target"])
        if teacher is not None:
            with torch.no_grad():
                teacher_logits = teacher(batch["inputs"])
            own, other = (torch.log_softmax(scores / 4, dim=-1) for scores in (logits, teacher_logits))
            loss = 0.1 * loss + 0.9 * 16 * F.kl_div(own, other, reduction="batchmean", log_target=True)
        loss.backward()
        optimizer.step()
    return (time.process_time() - started) / (len(batches) - 3)


def fit(module: L.LightningModule, batches: list[Batch], callbacks: list[L.Callback]) -> float:
    clock = Clock()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, LastCheckpoint) for callback in callbacks),
        limit_val_batches=0, callbacks=[*callbacks, clock], plugins=[AtomicCheckpoints()],
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return clock.seconds


def sides(make: Callable[[], nn.Module], distil: bool, batches: list[Batch], folder: Path) -> dict[str, Any]:
    teacher = make().eval().requires_grad_(False) if distil else None

    def mixed() -> L.LightningModule:
        return Plain(make()) if teacher is None else Distilled(make(), teacher)

    return {
        "bare": lambda: bare(make(), teacher, batches),
        "silent": lambda: fit(ByHand(make(), teacher, silent=True), batches, []),
        "by hand": lambda: fit(ByHand(make(), teacher, silent=False), batches, []),
        "mixin": lambda: fit(mixed(), batches, []),
        "callbacks": lambda: fit(
            mixed(), batches, [EpochSeed(0), History(), LastCheckpoint(folder), NumericsGuard(folder)]
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--check", action="store_true", help="end with an error where a limit is passed")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    batches = [
        {
            "inputs": torch.randn(BATCH, 1, 28, 28, generator=generator),
            "target": torch.randint(CLASSES, (BATCH,), generator=generator),
        }
        for _ in range(options.steps)
    ]
    print(conditions())
    rows, passed = [], True
    for title, make in {"linear": linear, "small CNN": cnn}.items():
        for distil in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                runs = sides(make, distil, batches, Path(folder))
                for run in runs.values():
                    run()
                rounds = [{name: run() for name, run in runs.items()} for _ in range(options.rounds)]
            median = {name: 1e6 * statistics.median(one[name] for one in rounds) for name in runs}
            row = [title, "ce + kd" if distil else "ce"]
            row += [f"{median[name]:.0f}" for name in ("bare", "silent", "by hand")]
            for name, other in itertools.product(("mixin", "callbacks"), ("by hand", "silent")):
                over = statistics.median(1e6 * (one[name] - one[other]) for one in rounds)
                ratio = 1 + over / median[other]
                row.append(f"{over:+.0f} ({ratio:.3f})")
                if other == "by hand":
                    passed &= over <= MICROSECONDS and (title == "linear" or ratio <= RATIO)
            rows.append(row)
    show(
        f"Microseconds a step, {BATCH} images of 28x28",
        ["network", "objective", "bare", "silent", "by hand", "mixin - by hand", "mixin - silent",
         "callbacks - by hand", "callbacks - silent"],
        rows,
    )  # fmt: skip
    if options.check and not passed:
        sys.exit(f"A limit is passed: {RATIO:.0%} of the small CNN's step by hand, {MICROSECONDS:.0f} microseconds.")


if __name__ == "__main__":
    main()
