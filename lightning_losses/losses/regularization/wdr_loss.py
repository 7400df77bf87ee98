"""Weight distribution regularisation: weights are drawn to a flat distribution, which quantisation harms least."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating, check_number
from lightning_losses.numerics.probabilities import full_precision

Weights = Float[Tensor, "..."] | Mapping[str, Float[Tensor, "..."]]


class Moments(NamedTuple):
    """The standardised fourth and third moments of a layer's weights."""

    kurtosis: Float[Tensor, ""]
    skewness: Float[Tensor, ""]


def weight_moments(weight: Float[Tensor, "..."]) -> Moments | None:
    """Kurtosis and skewness over all entries, by the unbiased standard deviation; None for fewer than two entries."""
    if weight.numel() < 2:
        return None
    centred = full_precision(weight) - full_precision(weight).mean()
    variance = centred.square().sum() / (weight.numel() - 1)
    scaled = centred / torch.where(variance > 0, variance, 1.0).sqrt()
    return Moments(scaled.pow(4).mean(), scaled.pow(3).mean())


def layer_weights(module: nn.Module, without: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """The weights of a network's linear and convolutional layers by name, without the first layer's.

    Children of the names in `without` are left out.
    """
    found = {
        name: layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, _ConvNd)) and name.partition(".")[0] not in without
    }
    return dict(list(found.items())[1:])


def wdr_loss(
    weights: Weights,
    *,
    kurtosis_target: float = 1.8,
    skewness_target: float = 0.0,
    kurtosis_weight: float = 0.015,
    skewness_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Squared distance of kurtosis and skewness from their targets, averaged over layers; see `WDR`."""
    _check_options(kurtosis_target, kurtosis_weight, skewness_weight)
    layers = list(weights.values()) if isinstance(weights, Mapping) else [weights]
    if not layers:
        raise ValueError("wdr_loss: no weights came; give those of at least one layer.")
    total: Tensor | None = None
    for layer in layers:
        check_floating("wdr_loss", "weights", layer)
        moments = weight_moments(layer)
        value = full_precision(layer).sum() * 0.0
        if moments is not None:
            value = kurtosis_weight * (moments.kurtosis - kurtosis_target).square()
            value = value + skewness_weight * (moments.skewness - skewness_target).square()
        total = value if total is None else total + value
    assert total is not None
    return total / len(layers)


def _check_options(kurtosis_target: float, kurtosis_weight: float, skewness_weight: float) -> None:
    check_number("wdr_loss", "kurtosis_target", kurtosis_target, least=1)
    check_number("wdr_loss", "kurtosis_weight", kurtosis_weight, least=0)
    check_number("wdr_loss", "skewness_weight", skewness_weight, least=0)


class WDR(Loss):
    """Weight distribution regularisation: weights are drawn to a flat distribution, which quantisation harms least.

    ``w_k (kurtosis - κ)² + w_s (skewness - γ)²``, averaged over layers, with the standardised moments of each layer's
    weights; a uniform distribution has kurtosis 1.8, a normal one 3, both skewness 0. Scale and shift do not matter. A
    layer of equal weights has no gradient. `ObjectiveMixin` gives it the weights of the module's linear and
    convolutional layers but the first.

    Args:
        kurtosis_target: κ, at least 1, which no distribution falls below.
        skewness_target: γ.
        kurtosis_weight: w_k, at least 0.
        skewness_weight: w_s, at least 0.

    Shapes:
        weights: a tensor, or {layer: tensor}.

    Returns:
        A scalar.

    Raises:
        ValueError: no weights, or of other dtypes; options out of range.

    Source:
        Xu, Li, Xiong, et al., 2023, "EQ-Net: Elastic Quantization Neural Networks", arXiv:2308.07650, and its code
        xuke225/EQ-Net, with these weights.

    Example:
        >>> round(WDR()(torch.linspace(-1, 1, 1001)).item(), 6)
        0.0
    """

    status = "confirmed"
    evidence = "xuke225/EQ-Net"

    def __init__(
        self,
        kurtosis_target: float = 1.8,
        skewness_target: float = 0.0,
        kurtosis_weight: float = 0.015,
        skewness_weight: float = 1.0,
    ) -> None:
        super().__init__()
        _check_options(kurtosis_target, kurtosis_weight, skewness_weight)
        self.kurtosis_target = kurtosis_target
        self.skewness_target = skewness_target
        self.kurtosis_weight = kurtosis_weight
        self.skewness_weight = skewness_weight

    def forward(self, weights: Weights) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        return wdr_loss(
            weights,
            kurtosis_target=self.kurtosis_target,
            skewness_target=self.skewness_target,
            kurtosis_weight=self.kurtosis_weight,
            skewness_weight=self.skewness_weight,
        )
