"""Weight distribution regularisation: pulls weights towards a flat distribution, which quantisation harms least."""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import Bound, Weight

Weights = Float[Tensor, "..."] | Mapping[str, Float[Tensor, "..."]]


class WDR(Loss):
    """Weight distribution regularisation: pulls weights towards a flat distribution, which quantisation harms least.

    ``w_k (kurtosis - κ)² + w_s (skewness - γ)²``, averaged over layers, with the standardised moments of each layer's
    weights; a uniform distribution has kurtosis 1.8, a normal one 3, both skewness 0. Scale and shift do not matter. A
    layer of equal weights has no gradient. `ObjectiveMixin` passes the weights of the module's linear and convolutional
    layers except the first.

    Args:
        kurtosis_target: κ, at least 1, the smallest kurtosis of any distribution.
        skewness_target: γ.
        kurtosis_weight: w_k, at least 0.
        skewness_weight: w_s, at least 0.

    Shapes:
        weights: a tensor, or {layer: tensor}.

    Returns:
        A scalar.

    Raises:
        ValueError: no weights; weights that aren't floating point; options out of range.

    Source:
        Xu, Li, Xiong, et al., 2023, "EQ-Net: Elastic Quantization Neural Networks", arXiv:2308.07650, and its code
        xuke225/EQ-Net, with these weights.

    Example:
        >>> round(WDR()(torch.linspace(-1, 1, 1001)).item(), 6)
        0.0
    """

    status = "confirmed"
    evidence = "xuke225/EQ-Net"

    kurtosis_target: Annotated[float, Bound(least=1)] = 1.8
    skewness_target: float = 0.0
    kurtosis_weight: Weight = 0.015
    skewness_weight: Weight = 1.0

    def forward(self, weights: Weights) -> Float[Tensor, ""]:
        """Evaluate the loss; see the class."""
        layers = list(weights.values()) if isinstance(weights, Mapping) else [weights]
        if not layers:
            raise ValueError(f"{self._identifier}: no weights came; give those of at least one layer.")
        for layer in layers:
            check_floating(self._identifier, "weights", layer)
        distances = [self._distance(layer) for layer in layers]
        return sum(distances[1:], distances[0]) / len(layers)

    def _distance(self, layer: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        moments = weight_moments(layer)
        if moments is None:
            return full_precision(layer).sum() * 0.0
        value = self.kurtosis_weight * (moments.kurtosis - self.kurtosis_target).square()
        return value + self.skewness_weight * (moments.skewness - self.skewness_target).square()


class Moments(NamedTuple):
    """The standardised fourth and third moments of a layer's weights."""

    kurtosis: Float[Tensor, ""]
    skewness: Float[Tensor, ""]


def weight_moments(weight: Float[Tensor, "..."]) -> Moments | None:
    """Kurtosis and skewness over all entries, with the unbiased standard deviation; None for fewer than two entries."""
    if weight.numel() < 2:
        return None
    values = full_precision(weight)
    # The scale does not matter; within ±1 no power over- or underflows, and equal weights are exactly their mean.
    largest = values.detach().abs().amax()
    values = values / torch.where(largest > 0, largest, 1.0)
    centred = values - values.mean()
    variance = centred.square().sum() / (weight.numel() - 1)
    scaled = centred / torch.where(variance > 0, variance, 1.0).sqrt()
    return Moments(scaled.pow(4).mean(), scaled.pow(3).mean())


def layer_weights(module: nn.Module, without: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """The weights of a network's linear and convolutional layers by name, without the first layer's.

    Child modules named in `without` are left out.
    """
    found = {
        name: layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, _ConvNd)) and name.partition(".")[0] not in without
    }
    return dict(list(found.items())[1:])
