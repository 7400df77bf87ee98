"""How a network is taken over for a while: which parameters learn, what is called, and gradients in evaluation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lightning_losses.optim.selection import select_parameters
from lightning_losses.test_time.normalisation import normalisation_parameters


@contextmanager
def only_learning(
    who: str, network: nn.Module, include: Sequence[str] | None, exclude: Sequence[str] = ()
) -> Iterator[dict[str, nn.Parameter]]:
    """The named parameters; within this context they take a gradient, also if they were frozen, and no other does.

    Args:
        who: the name that errors begin with.
        network: whose parameters.
        include: shell-style patterns; None takes those of normalisation layers.
        exclude: patterns of names to leave out.

    Raises:
        ValueError: no normalisation layer; a pattern that matches nothing.
    """
    before = {parameter: parameter.requires_grad for parameter in network.parameters()}
    try:
        for parameter in before:
            parameter.requires_grad_(parameter.is_floating_point())
        patterns = normalisation_parameters(network) if include is None else include
        if include is None and not patterns:
            raise ValueError(
                f"{who}: the network has no normalisation layer with weights; name the parameters to adapt by "
                "include=, such as ['*']."
            )
        chosen = select_parameters(who, network.named_parameters(), patterns, exclude) if patterns else {}
        for parameter in before.keys() - set(chosen.values()):
            parameter.requires_grad_(False)
        yield chosen
    finally:
        for parameter, learning in before.items():
            parameter.requires_grad_(learning)


@contextmanager
def in_place_of_forward(network: nn.Module, forward: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Within this context calls of the network, and its hooks, meet this function; the value is the network's own."""
    own, wrapped = network.forward, "forward" in vars(network)
    network.forward = forward
    try:
        yield own
    finally:
        if wrapped:
            network.forward = own
        else:
            del network.forward


@contextmanager
def with_gradients() -> Iterator[None]:
    """Gradients, also within Lightning's evaluation."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
