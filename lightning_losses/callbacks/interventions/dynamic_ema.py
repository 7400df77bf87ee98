"""Trains on, and ends with a moving average of the weights that holds what was known before."""

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any

import lightning as L
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_losses.callbacks.access import gradients_of, refuse_hidden_gradients, skipped_by_amp
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.numerics.settings import Bound
from lightning_losses.optim.dynamic_ema import DynamicAverage
from lightning_losses.optim.selection import select_parameters


class DynamicEMA(DeclaredCallback):
    """Trains on, and ends with a moving average of the weights that holds what was known before.

    For fine-tuning a network on one task after another: the average moves towards the weights after every optimizer
    step, at the rate that `DynamicAverage` finds for each tensor, and replaces the weights when training ends. Until
    then training, and its validation, are those of the weights as they are; a checkpoint holds these, and the average
    in the callback's state. Gradients are those that the optimizer saw: of all accumulated batches, averaged over
    processes, clipped. A step that AMP skips does not count. The state is two copies of the weights.

    Args:
        fallback: the rate where the rule gives none between 0 and 1; above 0 and below 1.
        include: shell-style patterns of the names of the parameters to average.
        exclude: patterns of names to leave as they are.

    Raises:
        ValueError: settings out of range; patterns that match nothing; FSDP1 or DeepSpeed.

    Source:
        Qiao, Zhang, Tan, Qu, Ding, Xie, 2025, "Large Continual Instruction Assistant", arXiv:2410.10868, who average
        LoRA's matrices.

    Example:
        >>> DynamicEMA(include=["*lora_*"]).fallback
        0.01
    """

    name = "dynamic_ema"

    fallback: Annotated[float, Bound(above=0, below=1)] = 0.01
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    _parameters: dict[str, nn.Parameter] = field(init=False, default_factory=dict)
    _handles: list[RemovableHandle] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.average = DynamicAverage(self.fallback)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the parameters, and hook into every optimizer's step."""
        refuse_hidden_gradients(self.name, trainer)
        self._parameters = select_parameters(self.name, pl_module.named_parameters(), self.include, self.exclude)
        if trainer.global_step == 0:
            # An earlier training's average is in its network's weights.
            self.average = DynamicAverage(self.fallback)
        for optimizer in trainer.optimizers:
            self._handles.append(optimizer.register_step_post_hook(self._average))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the weights by their average."""
        self.average.put_into_(self._parameters)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove the hooks from the optimizers."""
        while self._handles:
            self._handles.pop().remove()

    def state_dict(self) -> dict[str, Any]:
        """The average and the last gradients."""
        return self.average.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them from a checkpoint."""
        self.average.load_state_dict(state_dict)

    @torch.no_grad()
    def _average(self, optimizer: Optimizer, *arguments: Any) -> None:
        if skipped_by_amp(optimizer):
            return
        gradients = gradients_of(self._parameters, optimizer)
        self.average.update_({name: self._parameters[name].data for name in gradients}, gradients)
