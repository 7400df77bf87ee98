"""Watches whether training stays in one basin: the loss along the straight line between its checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_losses.callbacks.monitors.probe import ProbeMonitor
from lightning_losses.diagnostics.linear_mode_connectivity import interpolated_losses, loss_barrier
from lightning_losses.numerics.checks import check_choice, check_number
from lightning_losses.plots.connectivity import connectivity_panels
from lightning_losses.plots.style import Figure

Since = Literal["previous", "start"]


class LinearModeConnectivity(ProbeMonitor):
    """Logs the loss barrier on the straight line from earlier weights to the present ones, on a fixed probe.

    No barrier between consecutive measurements says that training has settled in a basin; that it appears early is
    what makes networks trained from there on connected. Batch normalisation's statistics are estimated anew, on the
    probe, at every point.

    Cost: `points` forward passes of the probe and a copy of the network, every n steps; a copy of the weights always,
    also in the checkpoint.

    Args:
        since: "previous" measures from the weights of the measurement before, "start" from those of the first.
        points: on the line, its ends among them, at least 2.
        loss: of (logits, target), a mean over rows; cross-entropy if None.
        samples: see `ProbeMonitor`.
        every_n_steps: see `Monitor`; the first measurement is one such distance after the start.
        folder: see `Monitor`.

    Attributes:
        lines: the losses along the line of each measurement.

    Raises:
        ValueError: an unknown `since`; numbers out of range.

    Source:
        Frankle, Dziugaite, Roy, Carbin, 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
        arXiv:1912.05671.

    Example:
        >>> LinearModeConnectivity(since="start", every_n_steps=200).points
        11
    """

    name: ClassVar[str] = "linear_mode_connectivity"

    def __init__(
        self,
        since: Since = "previous",
        points: int = 11,
        loss: nn.Module | Callable[[Tensor, Tensor], Tensor] | None = None,
        samples: int = 256,
        every_n_steps: int = 100,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(samples, every_n_steps, folder)
        check_choice(self.name, "since", since, Since)
        check_number(self.name, "points", points, least=2)
        self.since: Since = since
        self.points = int(points)
        self.loss = loss or F.cross_entropy
        self.lines: list[list[float]] = []
        self._earlier: dict[str, Tensor] | None = None
        self._earlier_step = -1

    @torch.no_grad()
    def measure(self, trainer: L.Trainer, pl_module: L.LightningModule, inputs: Tensor, target: Tensor) -> None:
        """The line from the earlier weights."""
        step = trainer.global_step
        if step == self._earlier_step:
            # Another batch of the same accumulated step.
            return
        now = {name: tensor.detach().clone() for name, tensor in pl_module.state_dict().items()}
        if self._earlier is not None:
            earlier = {name: tensor.to(now[name].device) for name, tensor in self._earlier.items()}
            positions, losses = interpolated_losses(
                pl_module,
                earlier,
                now,
                lambda network: float(self.loss(network(inputs), target)),
                points=self.points,
                refresh=lambda network: _estimate_statistics(network, inputs),
            )
            self.lines.append(losses)
            barrier = loss_barrier(positions, losses)
            values = {"barrier": barrier.linear, "barrier_above_mean": barrier.mean, "loss": losses[-1]}
            self.record(trainer, step, values)
        if self._earlier is None or self.since == "previous":
            self._earlier, self._earlier_step = now, step

    def figure(self) -> Figure:
        """The barriers over steps, and the loss along every line."""
        return connectivity_panels(self.steps, self.values["barrier"], self.lines)

    def state_dict(self) -> dict[str, Any]:
        """What was measured, the probe, and the earlier weights."""
        earlier = {"earlier": self._earlier, "earlier_step": self._earlier_step}
        return {**super().state_dict(), **earlier, "lines": [list(line) for line in self.lines]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)
        self._earlier = state_dict["earlier"]
        self._earlier_step = state_dict["earlier_step"]
        self.lines = [list(line) for line in state_dict["lines"]]


def _estimate_statistics(network: nn.Module, inputs: Tensor) -> None:
    normalised = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not normalised:
        return
    momenta = [part.momentum for part in normalised]
    for part in normalised:
        part.reset_running_stats()
        # A plain average, of the one batch there is.
        part.momentum = None
        part.train()
    network(inputs)
    for part, momentum in zip(normalised, momenta, strict=True):
        part.momentum = momentum
        part.eval()
