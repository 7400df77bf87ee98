"""Watches how many dimensions the outputs of layers fill."""

import math
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.callbacks.monitors.probe import LayerMonitor
from lightning_losses.diagnostics.intrinsic_dimension import Estimator, intrinsic_dimension
from lightning_losses.numerics.settings import Bound
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


class IntrinsicDimension(LayerMonitor):
    """Logs the intrinsic dimension of layers' outputs, by the distances to nearest neighbours, on a fixed probe.

    NaN while a layer has too few distinct outputs. Estimates of few samples are too low where the dimension is large;
    compare only numbers of equally many.

    Cost: a forward pass of the probe and its pairs, block by block, every n steps.

    Args:
        layers: names of the modules whose outputs are measured.
        estimator: "two_nn" or "mle"; see `lightning_losses.diagnostics.intrinsic_dimension`.
        neighbours: of "mle", at least 2, fewer than there are samples.
        samples, ignore_index, every_n_steps, folder: see `ProbeMonitor`.

    Raises:
        ValueError: too few samples; an unknown estimator; layers that don't exist; a target that is no index.

    Source:
        Facco, d'Errico, Rodriguez, Laio, 2017, arXiv:1803.06992; Levina, Bickel, 2004, "Maximum Likelihood Estimation
        of Intrinsic Dimension".

    Example:
        >>> IntrinsicDimension(["network.body"], estimator="mle").neighbours
        10
    """

    name = "intrinsic_dimension"

    estimator: Estimator = "two_nn"
    neighbours: Annotated[int, Bound(least=2)] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples <= self._neighbours():
            raise ValueError(
                f"{self.name}: samples={self.samples} came for {self._neighbours()} neighbours of each; give more."
            )

    def measure_layer(self, activity: Float[Tensor, "samples d"], target: Int[Tensor, " samples"]) -> dict[str, float]:
        """The dimension of a layer's outputs."""
        if len(torch.unique(activity, dim=0)) <= self._neighbours():
            return {"dimension": math.nan}
        dimension = intrinsic_dimension(activity, estimator=self.estimator, neighbours=self.neighbours)
        return {"dimension": dimension.item()}

    def figure(self) -> Figure:
        """The dimension of each layer over steps."""
        return value_curves(self.curves(), ylabel="intrinsic dimension")

    def _neighbours(self) -> int:
        return 2 if self.estimator == "two_nn" else self.neighbours
