"""Captures what named layers of a network put out."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class FeatureTap:
    """Keeps the outputs of named layers of a network's latest forward pass.

    Args:
        network: the network to listen to; its forward pass is unchanged.
        layers: names as in `network.named_modules()`.

    Raises:
        ValueError: a layer that the network lacks.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> with FeatureTap(network, ["1"]) as tap:
        ...     _ = network(torch.zeros(2, 4))
        >>> tap.features["1"].shape
        torch.Size([2, 8])
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        modules = dict(network.named_modules())
        if missing := [layer for layer in layers if layer not in modules]:
            raise ValueError(
                f"FeatureTap: {missing} came, but {type(network).__name__} has no such layers; its layers "
                f"are {', '.join(name for name in modules if name)}."
            )
        self.features: dict[str, Tensor] = {}
        self._handles = [modules[layer].register_forward_hook(_Keep(self.features, layer)) for layer in layers]

    def close(self) -> None:
        """Stop listening and let go of the features' hooks."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> "FeatureTap":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Keep:
    """A hook that a deep copy or a pickle of the network takes along, unlike a closure."""

    def __init__(self, features: dict[str, Tensor], layer: str) -> None:
        self.features = features
        self.layer = layer

    def __call__(self, module: nn.Module, arguments: Any, output: Tensor) -> None:
        self.features[self.layer] = output


def pooled(feature: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
    """A layer's output as one vector per sample: maps [B, D, H, W] and tokens [B, T, D] are averaged.

    Raises:
        ValueError: a shape that is none of [B, D], [B, T, D], [B, D, H, W].
    """
    if feature.ndim == 4:
        return feature.mean(dim=(2, 3))
    if feature.ndim == 3:
        return feature.mean(dim=1)
    if feature.ndim == 2:
        return feature
    raise ValueError(f"pooled: a feature of shape {list(feature.shape)} came; give [B, D], [B, T, D] or [B, D, H, W].")


def penultimate_stage(network: nn.Module) -> str:
    """The name of the last but one stage, from the `feature_info` that timm's networks and ours carry.

    Raises:
        ValueError: a network without two stages of `feature_info`.
    """
    info = getattr(network, "feature_info", None)
    if info is None or len(info) < 2:
        raise ValueError(
            f"penultimate_stage: {type(network).__name__} does not tell its stages (feature_info); name "
            "the layer to tap."
        )
    return str(info[-2]["module"])
