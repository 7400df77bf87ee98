"""Grokfast: amplifies the slow component of the gradients, a moving average over steps."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from lightning_losses.numerics.settings import Bound, Count, Declared, NonNegative
from lightning_losses.parallel.sharding import local_part, shard_like, whole

Average = Literal["mean", "sum"]
Decay = Annotated[float, Bound(least=0, below=1)]


class GrokfastEMA(Declared):
    """Adds an exponential moving average of past gradients to each gradient.

    ``h <- α h + (1 - α) g``, then ``g <- g + λ h``, where h begins as the first gradient.

    Args:
        alpha: α, in [0, 1).
        lamb: λ, at least 0; 0 changes nothing.

    Raises:
        ValueError: α or λ out of range.

    Source:
        Lee, Kang, Kim, Lee, 2024, "Grokfast: Accelerated Grokking by Amplifying Slow Gradients", arXiv:2405.20233.

    Example:
        >>> grokfast = GrokfastEMA(alpha=0.5, lamb=1.0)
        >>> gradient = torch.tensor([2.0])
        >>> grokfast.filter_({"weight": gradient})
        >>> gradient
        tensor([4.])
    """

    name = "grokfast_ema"

    alpha: Decay = 0.98
    lamb: NonNegative = 2.0
    _average: dict[str, Tensor] = field(init=False, default_factory=dict)

    @torch.no_grad()
    def filter_(self, gradients: Mapping[str, Tensor]) -> None:
        """Change one step's gradients, by parameter name, in place."""
        for name, gradient in gradients.items():
            average = _resume(self._average, name, gradient)
            if average is None:
                # Not lerp_, because (1 - α) g + α g may round to something other than g.
                average = self._average[name] = _wide(gradient)
            else:
                local_part(average).mul_(self.alpha).add_(local_part(gradient), alpha=1 - self.alpha)
            local_part(gradient).add_(local_part(average), alpha=self.lamb)

    def state_dict(self) -> dict[str, Any]:
        """The averages, whole; under FSDP2 every process must call it."""
        return {"average": {name: whole(average).clone() for name, average in self._average.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the averages."""
        self._average = {name: _wide(average) for name, average in state["average"].items()}


class GrokfastMA(Declared):
    """Adds the average of the last gradients to each gradient.

    ``g <- g + λ avg`` over a window of the last unfiltered gradients, including this one.

    Args:
        window_size: number of gradients; the memory is this many times that of the parameters.
        lamb: λ, at least 0.
        filter_type: "mean" or "sum" of the window.
        warmup: whether to wait until the window is full.

    Raises:
        ValueError: a window below 1; λ below 0; an unknown filter type.

    Source:
        Lee, Kang, Kim, Lee, 2024, "Grokfast: Accelerated Grokking by Amplifying Slow Gradients", arXiv:2405.20233.
        The released code keeps references to the gradients, which zeroing in place would erase; this keeps copies.

    Example:
        >>> grokfast = GrokfastMA(window_size=1, lamb=2.0)
        >>> gradient = torch.tensor([2.0])
        >>> grokfast.filter_({"weight": gradient})
        >>> gradient
        tensor([6.])
    """

    name = "grokfast_ma"

    window_size: Count = 100
    lamb: NonNegative = 5.0
    filter_type: Average = "mean"
    warmup: bool = True
    _window: dict[str, list[Tensor]] = field(init=False, default_factory=dict)
    _total: dict[str, Tensor] = field(init=False, default_factory=dict)
    _steps: dict[str, int] = field(init=False, default_factory=dict)

    @torch.no_grad()
    def filter_(self, gradients: Mapping[str, Tensor]) -> None:
        """Change one step's gradients, by parameter name, in place."""
        for name, gradient in gradients.items():
            total = self._push(name, gradient)
            held = len(self._window[name])
            if self.warmup and held < self.window_size:
                continue
            share = self.lamb / held if self.filter_type == "mean" else self.lamb
            local_part(gradient).add_(local_part(total), alpha=share)

    def _push(self, name: str, gradient: Tensor) -> Tensor:
        """Add a gradient to its window; returns the window's sum."""
        window = self._window.setdefault(name, [])
        steps = self._steps.get(name, 0)
        total = _resume(self._total, name, gradient)
        if total is None:
            total = self._total[name] = torch.zeros_like(_wide(gradient))
        place = steps % self.window_size
        if len(window) < self.window_size:
            window.append(gradient.detach().clone())
            local_part(total).add_(local_part(gradient))
        else:
            held = window[place] = _as(window[place], gradient)
            local_part(total).sub_(local_part(held)).add_(local_part(gradient))
            local_part(held).copy_(local_part(gradient))
        if place == self.window_size - 1:
            window[:] = [_as(held, gradient) for held in window]
            # Recomputed once per turn, so that rounding errors of the running sum don't accumulate.
            parts = torch.stack([local_part(held) for held in window])
            local_part(total).copy_(parts.sum(dim=0, dtype=total.dtype))
        self._steps[name] = steps + 1
        return total

    def state_dict(self) -> dict[str, Any]:
        """The windows, whole; under FSDP2 every process must call it."""
        return {
            "window": {name: [whole(held).clone() for held in window] for name, window in self._window.items()},
            "total": {name: whole(total).clone() for name, total in self._total.items()},
            "steps": dict(self._steps),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the windows.

        Raises:
            ValueError: more gradients than the window holds, of which those beyond it would never leave.
        """
        longest = max(map(len, state["window"].values()), default=0)
        if longest > self.window_size:
            raise ValueError(
                f"{self.name}: a state of {longest} gradients came with window_size={self.window_size}; give "
                f"window_size={longest} or more."
            )
        self._window = {name: [held.clone() for held in window] for name, window in state["window"].items()}
        self._total = {name: _wide(total) for name, total in state["total"].items()}
        self._steps = dict(state["steps"])


def _wide(tensor: Tensor) -> Tensor:
    """A full-precision copy, because in half precision small steps would round away."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


def _as(held: Tensor, gradient: Tensor) -> Tensor:
    """A whole tensor from a checkpoint, on the gradient's device and sharded like it."""
    if type(held) is type(gradient) and held.device == gradient.device:
        return held
    return shard_like(held, gradient)


def _resume(states: dict[str, Tensor], name: str, gradient: Tensor) -> Tensor | None:
    if name in states:
        states[name] = _as(states[name], gradient)
    return states.get(name)
