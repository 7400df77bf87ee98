"""Captures the outputs of named layers of a network."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class FeatureTap:
    """Keeps the outputs of named layers of a network's latest forward pass.

    It uses hooks, so it works on a network alone, inside a LightningModule under DDP, sharded by FSDP2, or compiled. A
    compiled network needs the tap before its first call, because it keeps the hooks that it was compiled with.

    Args:
        network: the network to tap; its forward pass is unchanged.
        layers: names as in `network.named_modules()`.
        who: the name that errors begin with.
        copies: whether outputs are copied, which a later layer that works in place can't change; at the price of their
            memory.

    Attributes:
        features: the latest outputs, by layer.

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

    def __init__(
        self, network: nn.Module, layers: Sequence[str], who: str = "FeatureTap", *, copies: bool = False
    ) -> None:
        # The layers' names are those of the network inside the compiled one.
        modules = dict(getattr(network, "_orig_mod", network).named_modules())
        if missing := [layer for layer in layers if layer not in modules]:
            raise ValueError(
                f"{who}: {missing} came, but {type(network).__name__} has no such layers; its layers "
                f"are {', '.join(name for name in modules if name)}."
            )
        self.who, self.copies = who, copies
        self.features: dict[str, Tensor] = _Outputs()
        self._modules = {layer: modules[layer] for layer in layers}
        self._handles: list[RemovableHandle] = []
        self.open()

    @property
    def layers(self) -> list[str]:
        """The layers' names, in order."""
        return list(self._modules)

    def latest(self) -> dict[str, Tensor]:
        """The outputs of the latest forward pass, in the order of the layers.

        Raises:
            ValueError: a layer that has not run since the tap was opened.
        """
        if missing := [layer for layer in self._modules if layer not in self.features]:
            raise ValueError(f"{self.who}: {missing} had no output since the tap was opened; call the network first.")
        return {layer: self.features[layer] for layer in self._modules}

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within this context the network may run on other inputs; afterwards the earlier outputs are restored."""
        before = dict(self.features)
        try:
            yield
        finally:
            self.features.clear()
            self.features.update(before)

    def open(self) -> None:
        """Add the hooks, if they are not there yet."""
        if not self._handles:
            self._handles = [
                module.register_forward_hook(_Keep(self.features, layer, self.copies))
                for layer, module in self._modules.items()
            ]

    def close(self) -> None:
        """Remove the hooks. Captured outputs stay as long as the tap."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> "FeatureTap":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Outputs(dict[str, Tensor]):
    """The latest outputs by layer; a copy begins without, since what belongs to a graph can't be copied."""

    def __reduce__(self) -> Any:
        return _Outputs, ()


class _Keep:
    """A hook that can be copied and pickled with the network, unlike a closure."""

    def __init__(self, features: dict[str, Tensor], layer: str, copies: bool) -> None:
        self.features = features
        self.layer = layer
        self.copies = copies

    def __call__(self, module: nn.Module, arguments: Any, output: Tensor) -> None:
        # Transformer blocks also return attention weights.
        output = output[0] if isinstance(output, tuple | list) else output
        self.features[self.layer] = output.clone() if self.copies and isinstance(output, Tensor) else output


def is_tap(hook: Any) -> bool:
    """Whether a hook belongs to a tap, which changes nothing."""
    return isinstance(hook, _Keep)


def pooled(feature: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
    """A layer's output as one vector per sample: maps [B, D, H, W] and tokens [B, T, D] are averaged.

    Raises:
        ValueError: a shape other than [B, D], [B, T, D], [B, D, H, W].
    """
    if feature.ndim == 4:
        return feature.mean(dim=(2, 3))
    if feature.ndim == 3:
        return feature.mean(dim=1)
    if feature.ndim == 2:
        return feature
    raise ValueError(f"pooled: a feature of shape {list(feature.shape)} came; give [B, D], [B, T, D] or [B, D, H, W].")


def channel_means(output: Float[Tensor, "batch d ..."]) -> Float[Tensor, "batch d"]:
    """A layer's output, averaged over all but its first two dimensions.

    Example:
        >>> import torch
        >>> channel_means(torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 3])
    """
    return output.flatten(2).mean(dim=2) if output.ndim > 2 else output


def penultimate_stage(network: nn.Module, who: str = "stages") -> str:
    """The name of the last but one of the `stages`."""
    return stages(network, least=2, who=who)[-2]


def stages(network: nn.Module, least: int = 1, who: str = "stages") -> list[str]:
    """The names of all stages, from the `feature_info` of timm's networks and this library's.

    Raises:
        ValueError: a network without `feature_info`, or with too few stages.
    """
    info = getattr(network, "feature_info", None) or []
    if len(info) < least:
        raise ValueError(
            f"{who}: {type(network).__name__} has no feature_info that lists its stages; name the layers to tap, from "
            f"{', '.join(name for name, _ in network.named_modules() if name)}."
        )
    return [str(stage["module"]) for stage in info]


def layers_to_tap(network: nn.Module, chosen: str | Sequence[str] | None, who: str = "stages") -> list[str]:
    """The layers to tap: None for the last but one stage, "all" for every stage, or one or several names.

    Example:
        >>> layers_to_tap(nn.Linear(2, 2), ["first", "second"])
        ['first', 'second']
    """
    if chosen is None:
        return [penultimate_stage(network, who)]
    if isinstance(chosen, str):
        return stages(network, who=who) if chosen == "all" else [chosen]
    return [str(layer) for layer in chosen]


def offered_features(features: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
    """The tapped tensors for losses: the last layer's vectors, and the single map, or all maps by layer.

    Example:
        >>> import torch
        >>> vectors, maps = offered_features({"a": torch.zeros(2, 3, 4, 4), "b": torch.zeros(2, 5, 2, 2)})
        >>> vectors.shape, list(maps)
        (torch.Size([2, 5]), ['a', 'b'])
    """
    *_, last = features.values()
    return pooled(last), last if len(features) == 1 else dict(features)
