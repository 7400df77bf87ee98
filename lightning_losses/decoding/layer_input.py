"""What a layer of a network is fed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_losses.networks.transformer_blocks import of_further_tokens

# What the last feed-forward layer is called in our transformer, and in those of transformers.
_FEED_FORWARD = ("perceptron_in", "mlp", "feed_forward", "fc1")


class LayerInput:
    """The latest input of a layer; None before the first."""

    def __init__(self) -> None:
        self.value: Tensor | None = None


@contextmanager
def layer_input(who: str, network: nn.Module, layer: str | None = None) -> Iterator[LayerInput]:
    """Within this context, the latest input of a layer is kept.

    Args:
        who: the name that errors begin with.
        network: any network.
        layer: the layer's name as in `network.named_modules()`; None: the last feed-forward layer.

    Raises:
        ValueError: a layer that the network lacks, or a network in which no feed-forward layer is known.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.ReLU(), nn.Linear(2, 1))
        >>> with layer_input("doc", network, "1") as given:
        ...     _ = network(torch.tensor([[-1.0, 3.0]]))
        >>> given.value
        tensor([[0., 3.]])
    """
    given = LayerInput()

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        given.value = inputs[0].detach() if inputs else None

    handle = _layer(who, network, layer).register_forward_pre_hook(keep)
    try:
        yield given
    finally:
        handle.remove()


def _layer(who: str, network: nn.Module, layer: str | None) -> nn.Module:
    modules = dict(getattr(network, "_orig_mod", network).named_modules())
    if layer is None:
        known = [name for name in modules if name.rpartition(".")[-1] in _FEED_FORWARD and not of_further_tokens(name)]
        if not known:
            raise ValueError(
                f"{who}: {type(network).__name__} has no layer called {', '.join(_FEED_FORWARD)}; give the name of the "
                "layer whose input is the key."
            )
        return modules[known[-1]]
    if layer not in modules:
        raise ValueError(
            f"{who}: layer={layer!r} came; {type(network).__name__} has {', '.join(name for name in modules if name)}."
        )
    return modules[layer]
