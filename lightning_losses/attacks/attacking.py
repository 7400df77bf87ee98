"""The state in which a network is attacked: parameters frozen, modes chosen, and everything as before afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from lightning_losses.networks.calls import in_evaluation
from lightning_losses.numerics.checks import check_choice

BatchNormMode = Literal["eval", "train"]


@contextmanager
def attacking(network: nn.Module, batch_norm: BatchNormMode = "eval") -> Iterator[nn.Module]:
    """Within this context a network can be attacked, whatever surrounds it; afterwards nothing of it has changed.

    It is in evaluation mode, its parameters are constants, and gradients are on, also within ``torch.no_grad`` and
    ``torch.inference_mode``. Modes, ``requires_grad``, buffers and torch's random states are restored. Attacks enter it
    by themselves when they are given a module; enter it where you give them a function that calls one.

    Args:
        network: any module. Of DistributedDataParallel the module within is used, and where a module holds one, as
            Fabric's do, it neither waits for gradients of parameters nor shares buffers.
        batch_norm: "eval" normalises by the running statistics; "train" by those of the attacked batch, which depends
            on all its rows. Running statistics never change. Dropout is off in both.

    Yields:
        The module to call.

    Raises:
        ValueError: another `batch_norm`.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        >>> with torch.inference_mode(), attacking(network) as victim:
        ...     victim(torch.zeros(3, 2)).requires_grad, victim.training, torch.is_grad_enabled()
        (False, False, True)
        >>> network.training, network[0].weight.requires_grad
        (True, True)
    """
    check_choice("attacking", "batch_norm", batch_norm, BatchNormMode)
    inner: nn.Module = network.module if isinstance(network, DistributedDataParallel) else network
    # Constants are also no part of autocast's cache, which may hold copies made in inference mode.
    trained = [parameter for parameter in inner.parameters() if parameter.requires_grad]
    places = {tensor.device.index for tensor in (*inner.parameters(), *inner.buffers()) if tensor.device.type == "cuda"}
    with (
        torch.random.fork_rng(devices=sorted(places)),
        torch.inference_mode(False),
        torch.enable_grad(),
        in_evaluation(inner),
        _alone(inner),
        _by_batch(inner) if batch_norm == "train" else nullcontext(),
    ):
        try:
            for parameter in trained:
                parameter.requires_grad_(False)
            yield inner
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


@contextmanager
def _alone(network: nn.Module) -> Iterator[None]:
    """Let what DistributedDataParallel wraps within a network run on this process by itself."""
    wrapped = [part for part in network.modules() if isinstance(part, DistributedDataParallel)]
    before = [(part.require_backward_grad_sync, part.require_forward_param_sync) for part in wrapped]
    for part in wrapped:
        part.require_backward_grad_sync = part.require_forward_param_sync = False
    try:
        yield
    finally:
        for part, (backward, forward) in zip(wrapped, before, strict=True):
            part.require_backward_grad_sync, part.require_forward_param_sync = backward, forward


@contextmanager
def _by_batch(network: nn.Module) -> Iterator[None]:
    """Normalise by batches, without running statistics, which so need no copy and no restoring."""
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    before = [(layer.training, layer.track_running_stats) for layer in layers]
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer, (training, tracking) in zip(layers, before, strict=True):
            layer.training, layer.track_running_stats = training, tracking
