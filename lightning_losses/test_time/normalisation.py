"""Normalisation layers at test time: which there are, and by which statistics batch normalisation goes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.parallel.processes import gather_batch, world_size

Statistics = Literal["batch", "source", "mixed"]


def normalisation_parameters(network: nn.Module) -> list[str]:
    """The names of the weights and biases of a network's normalisation layers, of whatever library.

    A layer is one if the name of its class, or of a base of it, holds ``Norm``.

    Example:
        >>> normalisation_parameters(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)))
        ['1.weight', '1.bias']
    """
    layers = [
        (place, layer)
        for place, layer in network.named_modules()
        if any("Norm" in kind.__name__ for kind in type(layer).__mro__)
    ]
    return [
        f"{place}.{name}" if place else name
        for place, layer in layers
        for name, _ in layer.named_parameters(recurse=False)
    ]


@contextmanager
def batch_normalisation(
    network: nn.Module, statistics: Statistics, source_samples: float, shared: bool
) -> Iterator[None]:
    """Within this context, layers of batch normalisation in evaluation mode go by these statistics.

    Running statistics stay as they are. Layers without any go by the batch, as ever.

    Args:
        network: the network.
        statistics: "source", the running statistics of training; "batch", those of the batch; "mixed", the running
            ones as if they were of `source_samples` samples, together with the batch's.
        source_samples: how many samples the running statistics count for where they are mixed.
        shared: whether the batch is that of all processes.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    with ExitStack() as held:
        for layer in layers if statistics != "source" else []:
            prior = source_samples if statistics == "mixed" else 0.0
            if statistics == "batch" and not (shared and world_size() > 1):
                held.enter_context(_without_running_statistics(layer))
            else:
                handle = layer.register_forward_pre_hook(partial(_moved_to, prior=prior, shared=shared))
                held.callback(handle.remove)
        yield


@contextmanager
def _without_running_statistics(layer: Any) -> Iterator[None]:
    """Within this context torch takes the batch's statistics, by its own fast kernels, as it finds no running ones.

    They are gone during calls of the layer alone, so that checkpoints, and callbacks that swap weights, find them.
    """
    running: list[Tensor] = []

    def hide(layer: Any, given: tuple[Tensor, ...]) -> None:
        if given[0].numel() == given[0].shape[1]:
            _refuse(given[0])
        running.extend((layer.running_mean, layer.running_var))
        layer.running_mean, layer.running_var = None, None

    def show(layer: Any, given: tuple[Tensor, ...], output: Any) -> None:
        # An error of another hook comes here before anything is hidden.
        if running:
            layer.running_mean, layer.running_var = running
            running.clear()

    handles = [layer.register_forward_pre_hook(hide), layer.register_forward_hook(show, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _refuse(inputs: Tensor) -> None:
    raise ValueError(
        f"test_time: a batch of shape {list(inputs.shape)} came to a layer of batch normalisation, one value for each "
        "channel, which has no variance; give larger batches, or statistics='mixed' or 'source'."
    )


def _moved_to(layer: Any, given: tuple[Tensor, ...], prior: float, shared: bool) -> tuple[Tensor, ...]:
    """The input that the running statistics normalise to what the wanted statistics would have made of it."""
    inputs = full_precision(given[0])
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    total: Callable[[Tensor], Tensor] = partial(_total, shared=shared)
    sums = total(torch.cat([inputs.sum(dim=axes), inputs.new_tensor([inputs.numel() / inputs.shape[1], len(inputs)])]))
    *_, values, samples = sums
    if prior == 0 and values <= 1:
        _refuse(given[0])
    mean = sums[:-2] / values
    variance = total((inputs - _along(mean, inputs)).square().sum(dim=axes)) / values
    share = prior / (prior + samples)
    source_mean, source_variance = layer.running_mean.to(inputs), layer.running_var.to(inputs)
    mean = share * source_mean + (1 - share) * mean
    variance = share * source_variance + (1 - share) * variance
    ratio = ((source_variance + layer.eps) / (variance + layer.eps)).sqrt()
    moved = (inputs - _along(mean, inputs)) * _along(ratio, inputs) + _along(source_mean, inputs)
    return (moved.to(given[0].dtype), *given[1:])


def _total(values: Float[Tensor, " n"], shared: bool) -> Float[Tensor, " n"]:
    return gather_batch(values.unsqueeze(0)).sum(dim=0) if shared and world_size() > 1 else values


def _along(values: Float[Tensor, " channels"], inputs: Tensor) -> Tensor:
    return values.view(-1, *[1] * (inputs.ndim - 2))
