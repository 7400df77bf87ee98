"""A network as it was before PEFT's adapters: the teacher of the network that has learnt them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lightning_losses.networks.calls import unwrapped


class WithoutAdapters(nn.Module):
    """Runs a network of PEFT with its adapters off, so that it can teach itself: its weights are held once.

    It shares the network's modules, which stay the student's to train. A head is that of the network below: the matrix
    that LoRA adds to, the layer in place of which one of `modules_to_save` learns.

    Args:
        network: what ``peft.get_peft_model`` returned.

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
        """The output of the network below."""
        with self._adapters_off():
            return self.network(*arguments, **named)

    def get_base_model(self) -> Any:
        """The network below, by whose arguments and configuration the head is read."""
        return unwrapped(self.network)

    def get_output_embeddings(self) -> Any:
        """The head of the network below."""
        head = unwrapped(self.network).get_output_embeddings()
        return getattr(head, "base_layer", getattr(head, "original_module", head))

    @property
    def config(self) -> Any:
        """The network's."""
        return unwrapped(self.network).config

    @contextmanager
    def _adapters_off(self) -> Iterator[None]:
        network: Any = self.network
        # PEFT asks for the gradients of all adapters when it switches them on again.
        asked = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
        try:
            with network.disable_adapter():
                yield
        finally:
            for parameter, before in asked:
                parameter.requires_grad_(before)
