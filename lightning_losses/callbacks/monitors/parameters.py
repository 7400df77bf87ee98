"""The base of monitors of parameters: the choice of parameters, and a value of all together and of each."""

from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_losses.callbacks.access import gradients_of, refuse_hidden_gradients, refuse_place_after
from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.interventions.second_gradient import SecondGradient
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.optim.selection import select_parameters


class ParameterMonitor(Monitor):
    """Base of the monitors that log a value of all parameters together, ``all``, and one of each, by its name.

    Args:
        include: shell-style patterns of the names of the parameters to watch.
        exclude: patterns of names to leave out.
        every_n_steps, folder: see `Monitor`.

    Raises:
        ValueError: patterns that match nothing; FSDP1 or DeepSpeed.
    """

    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    parameters: dict[str, nn.Parameter] = field(init=False, default_factory=dict)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the parameters."""
        refuse_hidden_gradients(self.name, trainer)
        self.parameters = select_parameters(self.name, pl_module.named_parameters(), self.include, self.exclude)

    def record_each(self, trainer: L.Trainer, names: Iterable[str], together: Tensor, each: Tensor) -> None:
        """Record the value of all parameters together, and the values of the named ones."""
        values = torch.cat([together.reshape(1), each]).tolist()
        self.record(trainer, trainer.global_step, dict(zip(["all", *names], values, strict=True)))


class GradientMonitor(ParameterMonitor):
    """Base of the monitors of gradients after accumulation, averaging and unscaling, and before clipping.

    In the trainer's list it must come before `OrthogonalGradient`, `Grokfast` and `SecondGradient`, which change the
    gradients.
    """

    def measure(self, weights: list[nn.Parameter], gradients: list[Any]) -> tuple[Tensor, Tensor]:
        """A value of all parameters together, and one of each."""
        raise NotImplementedError

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the parameters, and refuse a place after callbacks that change their gradients."""
        super().on_train_start(trainer, pl_module)
        refuse_place_after(trainer, self, OrthogonalGradient, Grokfast, SecondGradient)

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Measure, when due."""
        if self.due(trainer.global_step):
            gradients = gradients_of(self.parameters, optimizer)
            weights = [self.parameters[name] for name in gradients]
            self.record_each(trainer, gradients, *self.measure(weights, list(gradients.values())))
