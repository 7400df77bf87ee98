"""Evaluates every task seen so far, often enough to see the effect of a change of task."""

from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.callbacks.access import on_device, sum_over_processes
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.callbacks.monitors.probe import evaluating
from lightning_losses.diagnostics.continual_accuracy import (
    stability_gap,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)
from lightning_losses.numerics.rows import class_indices, labelled_rows
from lightning_losses.numerics.settings import Count
from lightning_losses.objective.ignored_targets import ignored_targets
from lightning_losses.plots.grokking import fraction_curves
from lightning_losses.plots.style import Figure

Task = tuple[Float[Tensor, "samples ..."], Int[Tensor, " samples"]]


class ContinualEvaluation(Monitor):
    """Logs the accuracy on every task, the worst-case accuracy, the stability gap, windowed forgetting and plasticity.

    Between the evaluations at the ends of tasks an accuracy may fall and recover: the stability gap. It shows only in
    evaluations every few steps. Each process evaluates its share of each task's rows, and the counts are added.

    Cost: a forward pass of all tasks' rows, every n steps.

    Args:
        tasks: (inputs, target) of each task, in the order of learning; a few hundred rows each are enough.
        current: a function that returns the number of the current task, from 0, given the trainer; the number never
            falls.
        window: number of consecutive evaluations for forgetting and plasticity.
        ignore_index: the target of ignored rows; None takes the module's `ignore_index`, or that of its losses.
        every_n_steps, folder: see `Monitor`.

    Raises:
        ValueError: no tasks; a current task that doesn't exist; numbers below 1.

    Source:
        De Lange, van de Ven, Tuytelaars, 2023, "Continual Evaluation for Lifelong Learning: Identifying the Stability
        Gap", arXiv:2205.13452.

    Example:
        >>> task = torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)
        >>> ContinualEvaluation([task, task], current=lambda trainer: trainer.current_epoch // 5).window
        10
    """

    name = "continual"

    tasks: Sequence[Task]
    current: Callable[[L.Trainer], int]
    window: Count = 10
    ignore_index: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks:
            raise ValueError(f"{self.name}: no tasks came; give (inputs, target) of each.")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a task without a target that counts."""
        super().on_fit_start(trainer, pl_module)
        ignored = ignored_targets(pl_module, self.ignore_index)
        for number, (_, target) in enumerate(self.tasks):
            if not bool(labelled_rows(target, *ignored).any()):
                raise ValueError(
                    f"{self.name}: task {number} has no sample with a target but {', '.join(map(str, ignored))}, which "
                    "is ignored; leave the task out, or give it some."
                )

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate every task, when due."""
        if not self.due(trainer.global_step):
            return
        task = self.current(trainer)
        if not 0 <= task < len(self.tasks):
            raise ValueError(f"{self.name}: the current task is {task}; there are {len(self.tasks)}, from 0.")
        hits, ignored = [], ignored_targets(pl_module, self.ignore_index)
        with evaluating(pl_module), torch.no_grad():
            for inputs, target in self.tasks:
                own = slice(trainer.global_rank, None, trainer.world_size)
                kept = labelled_rows(target[own], *ignored)
                rows = trainer.precision_plugin.convert_input(inputs[own].to(pl_module.device))
                logits = pl_module(rows).cpu()[kept.cpu()]
                hits.append((logits.argmax(dim=-1) == class_indices(target[own].cpu()[kept.cpu()])).sum())
        total = sum_over_processes(trainer, on_device(trainer, torch.stack(hits)))
        counts = [int(labelled_rows(target, *ignored).sum()) for _, target in self.tasks]
        accuracies = [hit / count for hit, count in zip(total.tolist(), counts, strict=True)]
        values = {"task": float(task)} | {f"accuracy/{number}": value for number, value in enumerate(accuracies)}
        seen = {**self.values, **{name: [*self.values.get(name, []), value] for name, value in values.items()}}
        table = torch.tensor([seen[f"accuracy/{number}"] for number in range(len(self.tasks))], dtype=torch.float64).T
        learnt = torch.tensor(seen["task"]).long()
        minima, worst = worst_case_accuracy(table, learnt)
        learning = range(task + 1)
        values |= {
            "minimum": minima[-1].item(),
            "worst_case": worst[-1].item(),
            "stability_gap": stability_gap(table, learnt)[-1].item(),
            "forgetting": _mean([windowed_forgetting(table[:, number], self.window) for number in learning]),
            "plasticity": _mean([windowed_plasticity(table[:, number], self.window) for number in learning]),
        }
        self.record(trainer, trainer.global_step, values)

    def figure(self) -> Figure:
        """Every task's accuracy and the worst case over steps, and where each task begins."""
        curves = {
            f"task {number}": (self.steps, self.values[f"accuracy/{number}"]) for number in range(len(self.tasks))
        }
        curves["worst case"] = (self.steps, self.values["worst_case"])
        learnt = self.values["task"]
        begins = {
            float(self.steps[place]): f"task {task:.0f}"
            for place, task in enumerate(learnt)
            if place == 0 or task != learnt[place - 1]
        }
        return fraction_curves(curves, ylabel="accuracy (%)", highlight="worst case", marks=begins)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
