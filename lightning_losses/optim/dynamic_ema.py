"""A moving average of the weights whose rate follows from how weights and gradients move."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from lightning_losses.numerics.settings import Bound, Declared
from lightning_losses.parallel.sharding import local_part, shard_like, whole, whole_dots


class DynamicAverage(Declared):
    """A moving average of the weights whose rate follows from how weights and gradients move.

    For each tensor, with weights θ and gradient g of a step, g' that of the step before, and the average m

    ``m <- (1 - α) m + α θ`` with ``α = 2 (1 + |g|) / (|θ - m| |g - g'|)``,

    where | | sums absolute values, and the fallback in its place where α is not between 0 and 1, as for small tensors
    or gradients that stand still. The average begins as the weights after the first step.

    Args:
        fallback: the rate in its place, above 0 and below 1.

    Raises:
        ValueError: a fallback out of range.

    Source:
        Qiao, Zhang, Tan, Qu, Ding, Xie, 2025, "Large Continual Instruction Assistant", arXiv:2410.10868, and its code,
        JingyangQiao/CoIN, which averages in the weights' own dtype; here it is full precision.

    Example:
        >>> average, weight = DynamicAverage(), torch.zeros(2)
        >>> average.update_({"weight": weight}, {"weight": torch.ones(2)})
        >>> average.update_({"weight": weight + 8}, {"weight": -torch.ones(2)})  # α = 2 · 3 / (16 · 4)
        >>> average.average["weight"]
        tensor([0.7500, 0.7500])
    """

    name = "dynamic_ema"

    fallback: Annotated[float, Bound(above=0, below=1)] = 0.01
    average: dict[str, Tensor] = field(init=False, default_factory=dict)
    _gradients: dict[str, Tensor] = field(init=False, default_factory=dict)

    @torch.no_grad()
    def update_(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Take the weights after a step, and its gradients, by parameter name."""
        moved, slopes, changes = list[Tensor](), list[Tensor](), list[Tensor]()
        known = [name for name in gradients if name in self.average]
        for name in known:
            self.average[name] = _like(self.average[name], weights[name])
            self._gradients[name] = _like(self._gradients[name], gradients[name])
            moved.append((weights[name] - self.average[name]).abs())
            slopes.append(gradients[name].abs())
            changes.append((gradients[name] - self._gradients[name]).abs())
        if known:
            distance, slope, change = (whole_dots(parts, _ones(parts)) for parts in (moved, slopes, changes))
            rates = 2 * (1 + slope) / (distance * change)
            # Nothing over nothing is no number, and in no range.
            rates = torch.where((rates > 0) & (rates < 1), rates, self.fallback)
            for name, rate in zip(known, rates, strict=True):
                average = local_part(self.average[name])
                average.add_(rate.to(average) * (local_part(weights[name]) - average))
        for name, gradient in gradients.items():
            if name not in self.average:
                self.average[name] = _copy(weights[name])
            self._gradients[name] = _copy(gradient)

    @torch.no_grad()
    def put_into_(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Replace the weights by their average, where there is one."""
        for name, weight in weights.items():
            if name in self.average:
                local_part(weight).copy_(local_part(_like(self.average[name], weight)))

    def state_dict(self) -> dict[str, Any]:
        """The averages and the last gradients, whole; under FSDP2 every process must call it."""
        return {
            "average": {name: whole(average).clone() for name, average in self.average.items()},
            "gradients": {name: whole(gradient).clone() for name, gradient in self._gradients.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the averages and the last gradients."""
        self.average = {name: average.clone() for name, average in state["average"].items()}
        self._gradients = {name: gradient.clone() for name, gradient in state["gradients"].items()}


def _copy(tensor: Tensor) -> Tensor:
    """A full-precision copy: in half precision a small rate would change nothing."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


def _like(held: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor from a checkpoint, on the device of another and sharded like it."""
    return held if type(held) is type(tensor.data) and held.device == tensor.device else shard_like(held, tensor)


def _ones(parts: list[Tensor]) -> list[Tensor]:
    return [torch.ones_like(part) for part in parts]
