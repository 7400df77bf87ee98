"""Watches the number of directions that layers use, and how many of them the label explains."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.callbacks.monitors.probe import LayerMonitor
from lightning_losses.diagnostics.diffusion_spectral_entropy import (
    diffusion_spectral_entropy,
    diffusion_spectral_information,
)
from lightning_losses.numerics.settings import Positive
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


class DiffusionSpectralEntropy(LayerMonitor):
    """Logs the diffusion spectral entropy of layers, and the bits of it that the label explains.

    Cost: a forward pass of the probe and, per layer, the eigenvalues of a matrix of `samples` rows and, five times,
    of one as large as each class, every n steps.

    Args:
        layers: names of the modules whose outputs are measured.
        bandwidth: the kernel's width, in the units of the activations.
        power: number of diffusion steps.
        seed: seed of the random subsets, which are the same at every measurement.
        samples, ignore_index, every_n_steps, folder: see `ProbeMonitor`.

    Raises:
        ValueError: numbers out of range; layers that don't exist; a target that is no index.

    Source:
        Liao et al., 2023, "Assessing Neural Network Representations During Training Using Noise-Resilient Diffusion
        Spectral Entropy", arXiv:2312.04823.

    Example:
        >>> DiffusionSpectralEntropy(["network.stages.0"]).name
        'diffusion_spectral_entropy'
    """

    name = "diffusion_spectral_entropy"

    bandwidth: Positive = 10.0
    power: Positive = 1.0
    seed: int = 0

    def measure_layer(self, activity: Float[Tensor, "samples d"], target: Int[Tensor, " samples"]) -> dict[str, float]:
        """Entropy and information of a layer."""
        generator = torch.Generator().manual_seed(self.seed)
        return {
            "entropy": diffusion_spectral_entropy(activity, bandwidth=self.bandwidth, power=self.power),
            "label": diffusion_spectral_information(
                activity, target, bandwidth=self.bandwidth, power=self.power, generator=generator
            ),
        }

    def figure(self) -> Figure:
        """Entropies and information over steps."""
        return value_curves(self.curves(), ylabel="bits")
