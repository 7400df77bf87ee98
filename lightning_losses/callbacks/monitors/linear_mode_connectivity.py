"""Watches whether training stays in one basin, by the loss along the line between earlier and present weights."""

from collections.abc import Callable
from dataclasses import field
from typing import Annotated, Literal

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_losses.callbacks.monitors.probe import ProbeMonitor
from lightning_losses.diagnostics.linear_mode_connectivity import interpolated_losses, loss_barrier
from lightning_losses.numerics.settings import Bound
from lightning_losses.plots.connectivity import connectivity_panels
from lightning_losses.plots.style import Figure

Since = Literal["previous", "start"]


class LinearModeConnectivity(ProbeMonitor):
    """Logs the loss barrier on the straight line from earlier weights to the present ones, on a fixed probe.

    If there is no barrier between consecutive measurements, training has settled in a basin. Networks that are trained
    separately from then on are connected. The statistics of batch normalisation are estimated anew on the probe at
    every point.

    Cost: `points` forward passes of the probe and a copy of the network, every n steps; at all times a copy of the
    weights, also in the checkpoint.

    Args:
        since: "previous" measures from the weights of the measurement before, "start" from those of the first.
        points: number of points on the line including its ends, at least 2.
        loss: a function of (logits, target) that is a mean over rows; None is cross-entropy.
        samples, ignore_index, every_n_steps, folder: see `ProbeMonitor`; the first measurement is
            `every_n_steps` after the start.

    Attributes:
        lines: the losses along the line of each measurement.
        earlier, earlier_step: the weights where the next line begins, and their step.

    Raises:
        ValueError: an unknown `since`; numbers out of range.

    Source:
        Frankle, Dziugaite, Roy, Carbin, 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
        arXiv:1912.05671.

    Example:
        >>> LinearModeConnectivity(since="start", every_n_steps=200).points
        11
    """

    name = "linear_mode_connectivity"
    kept = (*ProbeMonitor.kept, "lines", "earlier", "earlier_step")

    since: Since = "previous"
    points: Annotated[int, Bound(least=2)] = 11
    loss: nn.Module | Callable[[Tensor, Tensor], Tensor] | None = None
    lines: list[list[float]] = field(init=False, default_factory=list)
    earlier: dict[str, Tensor] | None = field(init=False, default=None)
    earlier_step: int = field(init=False, default=-1)

    @property
    def takes_tokens(self) -> bool:
        """Whether a loss was given, which may take them."""
        return self.loss is not None

    @torch.no_grad()
    def measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, inputs: Tensor, target: Tensor
    ) -> dict[str, float]:
        """The line from the earlier weights."""
        values: dict[str, float] = {}
        step, loss = trainer.global_step, self.loss or F.cross_entropy
        if step == self.earlier_step:
            # Another batch of the same accumulated step.
            return values
        now = {name: tensor.detach().clone() for name, tensor in pl_module.state_dict().items()}
        if self.earlier is not None:
            earlier = {name: tensor.to(now[name].device) for name, tensor in self.earlier.items()}
            positions, losses = interpolated_losses(
                pl_module,
                earlier,
                now,
                lambda network: float(loss(network(inputs), target)),
                points=self.points,
                refresh=lambda network: _estimate_statistics(network, inputs),
            )
            self.lines.append(losses)
            barrier = loss_barrier(positions, losses)
            values = {"barrier": barrier.linear, "barrier_above_mean": barrier.mean, "loss": losses[-1]}
        if self.earlier is None or self.since == "previous":
            self.earlier, self.earlier_step = now, step
        return values

    def figure(self) -> Figure:
        """The barriers over steps, and the loss along every line."""
        return connectivity_panels(self.steps, self.values["barrier"], self.lines)


def _estimate_statistics(network: nn.Module, inputs: Tensor) -> None:
    normalised = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not normalised:
        return
    momenta = [part.momentum for part in normalised]
    for part in normalised:
        part.reset_running_stats()
        # A plain average over the only batch.
        part.momentum = None
        part.train()
    network(inputs)
    for part, momentum in zip(normalised, momenta, strict=True):
        part.momentum = momentum
        part.eval()
