"""Watches how many directions layers use, and how many the label explains."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import lightning as L
import torch
from torch import Tensor

from lightning_losses.callbacks.monitors.probe import ProbeMonitor, layer_outputs
from lightning_losses.diagnostics.diffusion_spectral_entropy import (
    diffusion_spectral_entropy,
    diffusion_spectral_information,
)
from lightning_losses.numerics.checks import check_number
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


class DiffusionSpectralEntropy(ProbeMonitor):
    """Logs the diffusion spectral entropy of layers, and how many bits of it the label explains.

    Cost: a forward pass of the probe and, per layer, the eigenvalues of a matrix of `samples` rows and, five times,
    of one as large as each class, every n steps.

    Args:
        layers: names of the modules whose outputs to look at.
        bandwidth: of the kernel, in the units of the activations.
        power: the diffusion's steps.
        seed: of the subsets, which are the same at every measurement.
        samples: see `ProbeMonitor`.
        every_n_steps: see `Monitor`.
        folder: see `Monitor`.

    Raises:
        ValueError: numbers out of range; layers that there aren't; a target that is no index.

    Source:
        Liao et al., 2023, "Assessing Neural Network Representations During Training Using Noise-Resilient Diffusion
        Spectral Entropy", arXiv:2312.04823.

    Example:
        >>> DiffusionSpectralEntropy(["network.stages.0"]).name
        'diffusion_spectral_entropy'
    """

    name: ClassVar[str] = "diffusion_spectral_entropy"

    def __init__(
        self,
        layers: Sequence[str],
        bandwidth: float = 10.0,
        power: float = 1.0,
        seed: int = 0,
        samples: int = 512,
        every_n_steps: int = 100,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(samples, every_n_steps, folder)
        check_number(self.name, "bandwidth", bandwidth, above=0)
        check_number(self.name, "power", power, above=0)
        if isinstance(layers, str) or not layers:
            raise ValueError(f"{self.name}: layers={layers!r} came; give a list of module names.")
        self.layers = list(layers)
        self.bandwidth = bandwidth
        self.power = power
        self.seed = seed

    def measure(self, trainer: L.Trainer, pl_module: L.LightningModule, inputs: Tensor, target: Tensor) -> None:
        """Entropy and information of each layer."""
        if target.is_floating_point():
            raise ValueError(f"{self.name}: a floating-point target came; the information is about class indices.")
        values: dict[str, float] = {}
        for layer, activity in layer_outputs(self.name, pl_module, self.layers, inputs).items():
            generator = torch.Generator().manual_seed(self.seed)
            values[f"{layer}/entropy"] = diffusion_spectral_entropy(
                activity, bandwidth=self.bandwidth, power=self.power
            )
            values[f"{layer}/label"] = diffusion_spectral_information(
                activity, target, bandwidth=self.bandwidth, power=self.power, generator=generator
            )
        self.record(trainer, trainer.global_step, values)

    def figure(self) -> Figure:
        """Entropies and information over steps."""
        return value_curves({name: (self.steps, values) for name, values in self.values.items()}, ylabel="bits")
