"""Watches the norm of all weights and of each parameter."""

from typing import Any

import lightning as L
import torch

from lightning_losses.callbacks.monitors.parameters import ParameterMonitor
from lightning_losses.parallel.sharding import whole_dots
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


class WeightNorms(ParameterMonitor):
    """Logs the L2 norm of all parameters together and of each.

    If the norm grows while the training loss is at its minimum, the network only scales itself up.

    Cost: one product over the parameters, every n steps.

    Args:
        include, exclude, every_n_steps, folder: see `ParameterMonitor`.

    Raises:
        ValueError: patterns that match nothing; FSDP1 or DeepSpeed.

    Example:
        >>> WeightNorms(include=["network.*"]).include
        ['network.*']
    """

    name = "weight_norms"

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure, when due."""
        if self.due(trainer.global_step):
            parameters = list(self.parameters.values())
            squares = whole_dots(parameters, parameters)
            self.record_each(trainer, self.parameters, squares.sum().sqrt(), squares.sqrt())

    def figure(self) -> Figure:
        """The norms over steps."""
        return value_curves(self.curves(), ylabel="norm of the weights", highlight="all", log_y=True)
