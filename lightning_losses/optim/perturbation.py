"""Moves weights by a direction, and puts them back to the bit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.optim.weight_norm import weight_norm
from lightning_losses.parallel.sharding import local_part


@torch.no_grad()
def norm_of(direction: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """The L2 norm of all tensors of a direction together; under FSDP2 over the whole tensors."""
    return weight_norm(list(direction.values()))


@torch.no_grad()
def scaled_direction(direction: Mapping[str, Tensor], factor: Float[Tensor, ""]) -> dict[str, Tensor]:
    """Each tensor of a direction times a factor, as far as this process has it.

    What isn't finite becomes 0. Weights moved along an infinite gradient would be no numbers; where they stay, the
    second gradient is as infinite as the first, and whoever judges gradients decides about the step.

    Example:
        >>> scaled_direction({"weight": torch.tensor([3.0, torch.inf])}, torch.tensor(0.5))["weight"]
        tensor([1.5000, 0.0000])
    """
    moves = [local_part(tensor) for tensor in direction.values()]
    if moves:
        moves = list(torch._foreach_mul(moves, factor.to(moves[0].device)))
    for move in moves:
        move.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return dict(zip(direction, moves, strict=True))


@contextmanager
def perturbed(weights: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Iterator[None]:
    """Within this context the weights are moved by a direction; afterwards they are what they were, to the bit.

    Args:
        weights: parameters by name, changed in place; under FSDP2 their shards.
        direction: what is added to each; weights that it doesn't name stay.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> with perturbed({"weight": weight}, {"weight": torch.tensor([0.5, 0.0])}):
        ...     print(weight.data)
        tensor([1.5000, 1.0000])
        >>> weight.data
        tensor([1., 1.])
    """
    parts = [local_part(weights[name].detach()) for name in direction]
    with torch.no_grad():
        before = [part.clone() for part in parts]
        if parts:
            torch._foreach_add_(parts, [local_part(move) for move in direction.values()])
    try:
        yield
    finally:
        if parts:
            with torch.no_grad():
                torch._foreach_copy_(parts, before)
