"""Amplifies the slow component of the gradients, to shorten the delay of grokking."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_losses.callbacks.access import gradients_of, refuse_hidden_gradients
from lightning_losses.callbacks.declared import DeclaredCallback
from lightning_losses.numerics.settings import Count, NonNegative
from lightning_losses.optim.grokfast import Average, Decay, GrokfastEMA, GrokfastMA
from lightning_losses.optim.selection import select_parameters
from lightning_losses.parallel.sharding import whole_dots


class Grokfast(DeclaredCallback):
    """Adds a moving average of past gradients to the gradients of each optimizer step.

    It acts on the gradients of the whole step: after accumulation, averaging over processes and AMP's unscaling, and
    before clipping. A step that AMP will skip, because its gradients overflowed, does not enter the average. Its state
    is checkpointed: one copy of the gradients for "ema", `window_size` copies for "ma".

    Args:
        average: "ema", an exponential average, or "ma", one over a window.
        alpha: decay of "ema".
        lamb: the factor of the average that is added; None is 2.0 for "ema" and 5.0 for "ma".
        window_size: the window of "ma".
        filter_type: "mean" or "sum" of the window of "ma".
        warmup: whether "ma" waits until its window is full.
        include: shell-style patterns of the names of the parameters to filter.
        exclude: patterns of names to leave alone.

    Raises:
        ValueError: settings out of range; patterns that match nothing; FSDP1 or DeepSpeed; a fused optimizer under
            float16 AMP, which unscales gradients too late.

    Source:
        Lee, Kang, Kim, Lee, 2024, "Grokfast: Accelerated Grokking by Amplifying Slow Gradients", arXiv:2405.20233.

    Example:
        >>> Grokfast("ma", window_size=50).filter.lamb
        5.0
    """

    name = "grokfast"

    average: Literal["ema", "ma"] = "ema"
    alpha: Decay = 0.98
    lamb: NonNegative | None = None
    window_size: Count = 100
    filter_type: Average = "mean"
    warmup: bool = True
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    _parameters: dict[str, nn.Parameter] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.filter = self._new_filter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the parameters, once they are on the training device."""
        refuse_hidden_gradients(self.name, trainer)
        self._parameters = select_parameters(self.name, pl_module.named_parameters(), self.include, self.exclude)
        if trainer.global_step == 0:
            # An earlier training's averages are of other weights.
            self.filter = self._new_filter()
        fused = any(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in trainer.optimizers)
        if _scales_losses(trainer) and fused:
            raise ValueError("grokfast: a fused optimizer unscales AMP's gradients too late; give fused=False.")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Filter the gradients before this optimizer uses them."""
        gradients = gradients_of(self._parameters, optimizer)
        if _scales_losses(trainer) and not _finite(list(gradients.values())):
            return
        self.filter.filter_(gradients)

    def state_dict(self) -> dict[str, Any]:
        """The averages."""
        return self.filter.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the averages from a checkpoint."""
        self.filter.load_state_dict(state_dict)

    def _new_filter(self) -> GrokfastEMA | GrokfastMA:
        lamb = {} if self.lamb is None else {"lamb": self.lamb}
        if self.average == "ema":
            return GrokfastEMA(self.alpha, **lamb)
        return GrokfastMA(self.window_size, filter_type=self.filter_type, warmup=self.warmup, **lamb)


def _scales_losses(trainer: L.Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _finite(gradients: list[Tensor]) -> bool:
    # 0 times a finite number is 0, and NaN otherwise; the sum over shards is the same on every process.
    zeros = [torch.zeros_like(gradient) for gradient in gradients]
    return bool(torch.isfinite(whole_dots(gradients, zeros)).all())
