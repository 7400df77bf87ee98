"""Watches the norm of the weights, of all and of each parameter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch

from lightning_losses.callbacks.access import refuse_hidden_gradients
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.optim.selection import select_parameters
from lightning_losses.parallel.sharding import whole_dots
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


class WeightNorms(Monitor):
    """Logs the L2 norm of all parameters together and of each.

    A norm that grows while the training loss is at its floor says that the network only scales itself up.

    Cost: one product over the parameters, every n steps.

    Args:
        include: shell-style patterns of the names of the parameters to watch.
        exclude: patterns of names to leave out.
        every_n_steps: see `Monitor`.
        folder: see `Monitor`.

    Raises:
        ValueError: patterns that match nothing; FSDP1 or DeepSpeed.

    Example:
        >>> WeightNorms(include=["network.*"]).include
        ['network.*']
    """

    name: ClassVar[str] = "weight_norms"

    def __init__(
        self,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        every_n_steps: int = 10,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(every_n_steps, folder)
        self.include = include
        self.exclude = exclude

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the parameters."""
        refuse_hidden_gradients(self.name, trainer)
        self._parameters = select_parameters(self.name, pl_module.named_parameters(), self.include, self.exclude)

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure."""
        if not self.due(trainer.global_step):
            return
        parameters = list(self._parameters.values())
        squares = whole_dots(parameters, parameters)
        norms = torch.cat([squares.sum().reshape(1), squares]).sqrt().tolist()
        self.record(trainer, trainer.global_step, dict(zip(["all", *self._parameters], norms, strict=True)))

    def figure(self) -> Figure:
        """The norms over steps."""
        curves = {name: (self.steps, values) for name, values in self.values.items()}
        return value_curves(curves, ylabel="norm of the weights", highlight="all", log_y=True)
