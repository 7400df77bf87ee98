"""The loss along the straight line between two networks."""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_losses.numerics.checks import check_count
from lightning_losses.numerics.interpolation import interpolated


class Barrier(NamedTuple):
    """The height of a path above its ends.

    Attributes:
        linear: the largest height above the straight line between the ends' losses, at least 0.
        mean: the largest height above the mean of the ends' losses.
        position: the position of `linear`, in [0, 1].
    """

    linear: float
    mean: float
    position: float


def loss_barrier(positions: Sequence[float], losses: Sequence[float]) -> Barrier:
    """The barrier of the losses along a path; the first and last are its ends.

    Raises:
        ValueError: fewer than two points; numbers of positions and losses that differ; positions that don't rise from 0
            to 1.

    Source:
        Frankle, Dziugaite, Roy, Carbin, 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
        arXiv:1912.05671.

    Example:
        >>> loss_barrier([0.0, 0.5, 1.0], [1.0, 3.0, 2.0])
        Barrier(linear=1.5, mean=1.5, position=0.5)
    """
    if len(positions) != len(losses) or len(losses) < 2:
        raise ValueError(f"loss_barrier: {len(positions)} positions came with {len(losses)} losses; give 2 or more.")
    rises = all(before < after for before, after in itertools.pairwise(positions))
    if not (rises and positions[0] == 0 and positions[-1] == 1):
        raise ValueError(f"loss_barrier: positions {list(positions)} came; give numbers that rise from 0 to 1.")
    values = torch.tensor([float(value) for value in losses], dtype=torch.float64)
    along = torch.tensor([float(value) for value in positions], dtype=torch.float64)
    above = values - ((1 - along) * values[0] + along * values[-1])
    return Barrier(
        linear=max(above.max().item(), 0.0),
        mean=(values.max() - (values[0] + values[-1]) / 2).item(),
        position=along[above.argmax()].item(),
    )


@torch.no_grad()
def interpolated_losses(
    network: nn.Module,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    loss: Callable[[nn.Module], float],
    *,
    points: int = 11,
    prefix: str = "",
    refresh: Callable[[nn.Module], None] | None = None,
) -> tuple[list[float], list[float]]:
    """The losses of a network along the straight line between two states of its weights.

    Finite floating-point entries are interpolated. Infinite ones, which mask, are those of `end` everywhere except at
    the start; other entries are those of `start` everywhere except at the end. The network itself is not changed.

    Args:
        network: a network with the states' architecture.
        start: a state dict, such as a checkpoint's.
        end: another state dict.
        loss: a function that evaluates a network.
        points: number of points including the ends, at least 2.
        prefix: only entries whose name begins with it are interpolated; the rest stays as in `start`.
        refresh: called on each interpolated network before its evaluation: the statistics of batch normalisation must
            be estimated again.

    Returns:
        Positions in [0, 1] and the losses there, for `loss_barrier`.

    Raises:
        ValueError: states with different entries or shapes; fewer than 2 points; a prefix that no entry has.

    Example:
        >>> network = nn.Linear(1, 1, bias=False)
        >>> ends = {"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)}
        >>> interpolated_losses(network, *ends, lambda net: net.weight.item(), points=3)
        ([0.0, 0.5, 1.0], [0.0, 0.5, 1.0])
    """
    check_count("linear_mode_connectivity", "points", points)
    if points < 2:
        raise ValueError(f"linear_mode_connectivity: points={points} came; give at least 2.")
    if start.keys() != end.keys():
        differing = ", ".join(sorted(start.keys() ^ end.keys()))
        raise ValueError(f"linear_mode_connectivity: only one of the states has {differing}.")
    if others := [name for name, tensor in start.items() if tensor.shape != end[name].shape]:
        raise ValueError(f"linear_mode_connectivity: the states' {', '.join(others)} have different shapes.")
    if not any(name.startswith(prefix) for name in start):
        raise ValueError(f"linear_mode_connectivity: no entry begins with {prefix!r}; there are {', '.join(start)}.")
    moving = copy.deepcopy(network)
    positions = [point / (points - 1) for point in range(points)]
    losses = []
    for along in positions:
        state = {
            name: _between(tensor, end[name], along) if name.startswith(prefix) else tensor
            for name, tensor in start.items()
        }
        moving.load_state_dict(state)
        if refresh is not None:
            refresh(moving)
        losses.append(float(loss(moving)))
    return positions, losses


def _between(start: Tensor, end: Tensor, along: float) -> Tensor:
    # The exact ends, without rounding.
    if along == 1:
        return end
    return interpolated(start, end, along) if along > 0 and start.is_floating_point() else start
