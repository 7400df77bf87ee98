"""Finds the samples whose losses move against each other."""

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.callbacks.monitors.probe import ProbeMonitor
from lightning_losses.numerics.checks import check_number
from lightning_losses.numerics.settings import Count
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


class Opposition(NamedTuple):
    """The samples whose losses rose and fell most between two evaluations.

    Attributes:
        rising: positions, the largest rise first.
        falling: positions, the largest fall first.
        rise: the mean rise of the first.
        fall: the mean fall of the second, positive.
        score: ``(rise + fall) / |change of the mean loss|``: how much larger the opposing changes are than the visible
            one.
    """

    rising: Int[Tensor, " m"]
    falling: Int[Tensor, " m"]
    rise: float
    fall: float
    score: float


@torch.no_grad()
def opposing_signals(
    before: Float[Tensor, " samples"], after: Float[Tensor, " samples"], samples: int = 20
) -> Opposition:
    """The samples whose losses rose and fell most.

    Such groups have large opposite changes that cancel in the mean; they make training oscillate.

    Args:
        before: [n] losses of the samples.
        after: [n] losses of the same samples, later.
        samples: number of samples in each group, at most half of all.

    Source:
        Rosenfeld, Risteski, 2023, "Outliers with Opposing Signals Have an Outsized Effect on Neural Network
        Optimization", arXiv:2311.04163; the score is ours.

    Example:
        >>> before, after = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([4.0, 1.0, 0.0])
        >>> found = opposing_signals(before, after, samples=1)
        >>> found.rising.tolist(), found.falling.tolist(), found.score
        ([0], [2], 6.0)
    """
    check_number("opposing_signals", "samples", samples, least=1)
    change = (after - before).double()
    chosen = max(1, min(samples, len(change) // 2))
    rising = change.topk(chosen).indices
    falling = (-change).topk(chosen).indices
    rise = change[rising].mean().clamp(min=0).item()
    fall = -change[falling].mean().clamp(max=0).item()
    visible = change.mean().abs().clamp(min=torch.finfo(torch.float64).tiny).item()
    return Opposition(rising, falling, rise, fall, 0.0 if rise + fall == 0 else (rise + fall) / visible)


class OpposingSignals(ProbeMonitor):
    """Follows the losses of a fixed probe's samples, and finds those that move most in opposite directions.

    Logs the mean rise and fall of the two groups since the last measurement, their score, and the share of their
    samples that were in the groups before. `opposition` has the positions in the probe.

    Cost: a forward pass of the probe, every n steps.

    Args:
        group: number of samples in each group.
        samples, ignore_index, every_n_steps, folder: see `ProbeMonitor`; to see an oscillation with a period of two
            steps, measure at every step.

    Attributes:
        opposition: the last measurement's groups; None before the second one.
        losses: the losses of the last measurement.

    Raises:
        ValueError: numbers below 1.

    Source:
        Rosenfeld, Risteski, 2023, arXiv:2311.04163, from its description.

    Example:
        >>> OpposingSignals(group=10, every_n_steps=1).group
        10
    """

    name = "opposing_signals"
    samples = 1024
    every_n_steps = 10
    kept = (*ProbeMonitor.kept, "losses", "opposition")

    group: Count = 20
    opposition: Opposition | None = field(init=False, default=None)
    losses: Tensor | None = field(init=False, default=None)

    @torch.no_grad()
    def measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, inputs: Tensor, target: Tensor
    ) -> dict[str, float]:
        """The groups since the last measurement."""
        losses = F.cross_entropy(pl_module(inputs).float(), target, reduction="none")
        before, self.losses = self.losses, losses
        values = {"rise": 0.0, "fall": 0.0, "score": 0.0, "persistence": 0.0}
        if before is not None:
            last, self.opposition = self.opposition, opposing_signals(before.to(losses), losses, self.group)
            found = self.opposition
            values |= {"rise": found.rise, "fall": found.fall, "score": found.score}
            if last is not None:
                # A group that oscillates rises at one measurement and falls at the next.
                now, then = torch.cat([found.rising, found.falling]), torch.cat([last.rising, last.falling])
                values["persistence"] = torch.isin(now, then.to(now.device)).double().mean().item()
            if math.isnan(found.score):
                # Losses that are NaN are in no order.
                values["persistence"] = math.nan
        return values

    def figure(self) -> Figure:
        """Rise and fall over steps."""
        curves: dict[str, tuple[Sequence[float], Sequence[float]]] = {
            "rise": (self.steps, self.values["rise"]),
            "fall": (self.steps, [-value for value in self.values["fall"]]),
        }
        return value_curves(curves, ylabel="change of the loss (nats)")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        super().load_state_dict(state_dict)
        self.opposition = None if state_dict["opposition"] is None else Opposition(*state_dict["opposition"])
