"""A network without its PEFT adapters, as the teacher of the same network with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lightning_losses.networks.calls import unwrapped


class WithoutAdapters(nn.Module):
    """Runs a PEFT network with its adapters off, so that it can teach itself and its weights are stored once.

    It shares the network's modules, which the student trains. Its head is that of the base network: without LoRA's
    addition, and the original of a layer in `modules_to_save`.

    Args:
        network: the result of ``peft.get_peft_model``.

    Raises:
        ValueError: a network that can't switch its adapters off.

    Example:
        >>> WithoutAdapters(nn.Linear(2, 3))
        Traceback (most recent call last):
        ...
        ValueError: WithoutAdapters: a Linear came, which has no disable_adapter; give what peft.get_peft_model returns.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not callable(getattr(network, "disable_adapter", None)):
            raise ValueError(
                f"WithoutAdapters: a {type(network).__name__} came, which has no disable_adapter; give what "
                "peft.get_peft_model returns."
            )
        self.network = network

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The output of the base network."""
        with self._adapters_off():
            return self.network(*arguments, **named)

    def get_base_model(self) -> Any:
        """The base network, whose arguments and configuration tell how to read its head."""
        return unwrapped(self.network)

    def get_output_embeddings(self) -> Any:
        """The head of the base network."""
        head = unwrapped(self.network).get_output_embeddings()
        return getattr(head, "base_layer", getattr(head, "original_module", head))

    @property
    def config(self) -> Any:
        """The network's."""
        return unwrapped(self.network).config

    @contextmanager
    def _adapters_off(self) -> Iterator[None]:
        network: Any = self.network
        # PEFT makes all adapters require gradients when it switches them on again.
        asked = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
        try:
            with network.disable_adapter():
                yield
        finally:
            for parameter, before in asked:
                parameter.requires_grad_(before)
