"""Watches the information of layers about the input and the label."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.callbacks.monitors.probe import LayerMonitor
from lightning_losses.diagnostics.mutual_information import (
    Information,
    adaptive_bins,
    binned_information,
    kde_information,
    knn_information,
)
from lightning_losses.numerics.settings import Count, Positive
from lightning_losses.plots.grokking import information_panel
from lightning_losses.plots.style import Figure

Estimator = Literal["bins", "kernel", "neighbours"]


class InformationPlane(LayerMonitor):
    """Logs the information of layers about the label and about the input, in nats, on a fixed probe.

    The information of a deterministic network about its input is infinite. Estimates depend on the bins or the noise,
    so compare only numbers of one estimator. ``saturation`` near 1 says that every sample is its own symbol: then the
    numbers say nothing about the layer.

    Cost: a forward pass of the probe, and `samples` squared distances per layer and class for "kernel" and
    "neighbours", every n steps.

    Args:
        layers: names of the modules whose outputs are measured.
        estimator: "bins" (each holds equally many distinct activations), "kernel" (Gaussian noise and the upper bound
            of Kolchinsky and Tracey), or "neighbours" (nearest neighbours after PCA).
        bins: number of bins of "bins".
        noise: the standard deviation of the noise of "kernel" and "neighbours".
        components: number of PCA components of "neighbours".
        seed: seed of the noise of "neighbours", which is the same at every measurement.
        samples, ignore_index, every_n_steps, folder: see `ProbeMonitor`.

    Raises:
        ValueError: an unknown estimator; numbers out of range; layers that don't exist; a target that is no index.

    Source:
        Saxe et al., 2018, "On the Information Bottleneck Theory of Deep Learning"; Chelombiev, Houghton, O'Donnell,
        2019, arXiv:1902.09037; Kolchinsky, Tracey, 2017, arXiv:1706.02419.

    Example:
        >>> InformationPlane(["network.stages.0"], estimator="kernel").estimator
        'kernel'
    """

    name = "information"

    estimator: Estimator = "bins"
    bins: Count = 30
    noise: Positive = 0.1
    components: Count = 2
    seed: int = 0

    def measure_layer(self, activity: Float[Tensor, "samples d"], target: Int[Tensor, " samples"]) -> dict[str, float]:
        """Information of a layer."""
        return self._estimate(activity.float(), target)._asdict()

    def figure(self) -> Figure:
        """The information plane: one path per layer, from light to dark during training."""
        paths = {layer: (self.values[f"{layer}/input"], self.values[f"{layer}/label"]) for layer in self.layers}
        return information_panel(paths)

    def _estimate(self, activity: Tensor, target: Tensor) -> Information:
        if self.estimator == "bins":
            if not bool(activity.isfinite().all()):
                return Information(math.nan, math.nan, math.nan)
            below = torch.nextafter(activity.min(), activity.new_tensor(-torch.inf))
            low = 0.0 if bool((activity >= 0).all()) else float(below)
            return binned_information(adaptive_bins(activity, self.bins, low), target)
        if self.estimator == "kernel":
            return kde_information(activity, target, self.noise**2)
        generator = torch.Generator().manual_seed(self.seed)
        return knn_information(activity, target, components=self.components, noise=self.noise, generator=generator)
