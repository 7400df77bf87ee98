"""Watches what layers know of the input and of the label."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import lightning as L
import torch
from torch import Tensor

from lightning_losses.callbacks.monitors.probe import ProbeMonitor, layer_outputs
from lightning_losses.diagnostics.mutual_information import (
    Information,
    adaptive_bins,
    binned_information,
    kde_information,
    knn_information,
)
from lightning_losses.numerics.checks import check_choice, check_number
from lightning_losses.plots.grokking import information_panel
from lightning_losses.plots.style import Figure

Estimator = Literal["bins", "kernel", "neighbours"]


class InformationPlane(ProbeMonitor):
    """Logs the information of layers about the label and about the input, in nats, on a fixed probe.

    The information of a deterministic network about its input is infinite; what is estimated depends on the bins or
    the noise, so compare numbers of one estimator only. ``saturation`` near 1 says that every sample is its own
    symbol: then the numbers say nothing of the layer.

    Cost: a forward pass of the probe, and `samples` squared distances per layer and class for "kernel" and
    "neighbours", every n steps.

    Args:
        layers: names of the modules whose outputs to look at.
        estimator: "bins" with equally many different activations each, "kernel" (Gaussian noise and the upper bound
            of Kolchinsky and Tracey), or "neighbours" (nearest neighbours after PCA).
        bins: of "bins".
        noise: the standard deviation of the noise of "kernel" and "neighbours".
        components: of the PCA of "neighbours".
        seed: of the noise of "neighbours", which is the same at every measurement.
        samples: see `ProbeMonitor`.
        every_n_steps: see `Monitor`.
        folder: see `Monitor`.

    Raises:
        ValueError: an unknown estimator; numbers out of range; layers that there aren't; a target that is no index.

    Source:
        Saxe et al., 2018, "On the Information Bottleneck Theory of Deep Learning"; Chelombiev, Houghton, O'Donnell,
        2019, arXiv:1902.09037; Kolchinsky, Tracey, 2017, arXiv:1706.02419.

    Example:
        >>> InformationPlane(["network.stages.0"], estimator="kernel").estimator
        'kernel'
    """

    name: ClassVar[str] = "information"

    def __init__(
        self,
        layers: Sequence[str],
        estimator: Estimator = "bins",
        bins: int = 30,
        noise: float = 0.1,
        components: int = 2,
        seed: int = 0,
        samples: int = 512,
        every_n_steps: int = 100,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(samples, every_n_steps, folder)
        check_choice(self.name, "estimator", estimator, Estimator)
        check_number(self.name, "bins", bins, least=1)
        check_number(self.name, "noise", noise, above=0)
        check_number(self.name, "components", components, least=1)
        if isinstance(layers, str) or not layers:
            raise ValueError(f"{self.name}: layers={layers!r} came; give a list of module names.")
        self.layers = list(layers)
        self.estimator: Estimator = estimator
        self.bins = bins
        self.noise = noise
        self.components = components
        self.seed = seed

    def measure(self, trainer: L.Trainer, pl_module: L.LightningModule, inputs: Tensor, target: Tensor) -> None:
        """Information of each layer."""
        if target.is_floating_point():
            raise ValueError(f"{self.name}: a floating-point target came; information is about class indices.")
        values: dict[str, float] = {}
        for layer, activity in layer_outputs(self.name, pl_module, self.layers, inputs).items():
            found = self._estimate(activity.float(), target)
            values |= {f"{layer}/{part}": value for part, value in found._asdict().items()}
        self.record(trainer, trainer.global_step, values)

    def figure(self) -> Figure:
        """The information plane: a path a layer, from light to dark as training goes on."""
        paths = {layer: (self.values[f"{layer}/input"], self.values[f"{layer}/label"]) for layer in self.layers}
        return information_panel(paths)

    def _estimate(self, activity: Tensor, target: Tensor) -> Information:
        if self.estimator == "bins":
            low = 0.0 if bool((activity >= 0).all()) else float(activity.min()) - 1e-6
            return binned_information(adaptive_bins(activity, self.bins, low), target)
        if self.estimator == "kernel":
            return kde_information(activity, target, self.noise**2)
        generator = torch.Generator().manual_seed(self.seed)
        return knn_information(activity, target, components=self.components, noise=self.noise, generator=generator)
