"""Watches gradients vanish exactly: entries that are 0, of all parameters and of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch.optim import Optimizer

from lightning_losses.callbacks.access import gradients_of, refuse_hidden_gradients, refuse_place_after
from lightning_losses.callbacks.interventions.grokfast import Grokfast
from lightning_losses.callbacks.interventions.orthogonal_gradient import OrthogonalGradient
from lightning_losses.callbacks.monitors.monitor import Monitor
from lightning_losses.optim.selection import select_parameters
from lightning_losses.parallel.sharding import whole_dots
from lightning_losses.plots.grokking import fraction_curves
from lightning_losses.plots.style import Figure


class ZeroGradients(Monitor):
    """Logs the share of gradient entries that are exactly 0, of all parameters together and of each.

    Where the softmax has collapsed on every row, no gradient is left; before that, entries vanish layer by layer. A
    unit that no sample activates has zeros as well, from the start: look at the change. It sees the gradients after
    accumulation, averaging and unscaling, before clipping; it stands before `OrthogonalGradient` and `Grokfast`.

    Cost: one comparison and sum over the gradients, every n steps.

    Args:
        include: shell-style patterns of the names of the parameters to watch.
        exclude: patterns of names to leave out.
        every_n_steps: see `Monitor`.
        folder: see `Monitor`.

    Raises:
        ValueError: patterns that match nothing; a place behind the callbacks named above; FSDP1 or DeepSpeed.

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697.

    Example:
        >>> ZeroGradients(every_n_steps=50).name
        'zero_gradients'
    """

    name: ClassVar[str] = "zero_gradients"

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
        refuse_place_after(trainer, self, OrthogonalGradient, Grokfast)
        self._parameters = select_parameters(self.name, pl_module.named_parameters(), self.include, self.exclude)

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Measure."""
        if not self.due(trainer.global_step):
            return
        gradients = gradients_of(self._parameters, optimizer)
        # Ones are counted in float32, exactly up to 2**24 entries of a parameter.
        zeros: list[Any] = [(gradient == 0).float() for gradient in gradients.values()]
        counts = whole_dots(zeros, zeros).double()
        sizes = torch.tensor([gradient.numel() for gradient in gradients.values()]).to(counts)
        shares = torch.cat([(counts.sum() / sizes.sum()).reshape(1), counts / sizes]).tolist()
        self.record(trainer, trainer.global_step, dict(zip(["all", *gradients], shares, strict=True)))

    def figure(self) -> Figure:
        """The shares over steps."""
        curves = {name: (self.steps[-len(values) :], values) for name, values in self.values.items()}
        return fraction_curves(curves, ylabel="gradient entries that are 0 (%)", highlight="all")
