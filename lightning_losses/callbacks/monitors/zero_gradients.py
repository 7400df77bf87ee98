"""Watches for gradient entries that are exactly 0, in all parameters and in each."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_losses.callbacks.monitors.parameters import GradientMonitor
from lightning_losses.parallel.sharding import whole_dots
from lightning_losses.plots.grokking import fraction_curves
from lightning_losses.plots.style import Figure


class ZeroGradients(GradientMonitor):
    """Logs the share of gradient entries that are exactly 0, of all parameters together and of each.

    Once the softmax has collapsed on every row, no gradient is left; before that, entries vanish layer by layer. Units
    that no sample activates have zeros from the start, so watch the change. Gradients are taken after accumulation,
    averaging and unscaling, and before clipping; the monitor must come before `OrthogonalGradient` and `Grokfast`.

    Cost: one comparison and sum over the gradients, every n steps.

    Args:
        include, exclude, every_n_steps, folder: see `ParameterMonitor`.

    Raises:
        ValueError: patterns that match nothing; a place after the callbacks named above; FSDP1 or DeepSpeed.

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697.

    Example:
        >>> ZeroGradients(every_n_steps=50).name
        'zero_gradients'
    """

    name = "zero_gradients"

    def measure(self, weights: list[nn.Parameter], gradients: list[Any]) -> tuple[Tensor, Tensor]:
        """The shares."""
        zeros: list[Any] = [gradient == 0 for gradient in gradients]
        counts = whole_dots(zeros, zeros)
        sizes = torch.tensor([gradient.numel() for gradient in gradients]).to(counts)
        return counts.sum() / sizes.sum(), counts / sizes

    def figure(self) -> Figure:
        """The shares over steps."""
        return fraction_curves(self.curves(), ylabel="gradient entries that are 0 (%)", highlight="all")
