"""Runs a network to measure inputs: its outputs and its layers', an input's gradient, and nothing of it changed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.networks.calls import call, in_evaluation, logits_of
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.teachers.feature_taps import FeatureTap, channel_means


class Outputs(NamedTuple):
    """A network's logits for a batch, in float32 at least, and the outputs of the layers that were asked for."""

    logits: Float[Tensor, "batch classes"]
    activations: dict[str, Tensor]

    def features(self, layer: str) -> Float[Tensor, "batch d"]:
        """A layer's output, averaged over all but its first two dimensions."""
        return channel_means(self.activations[layer])


def device_of(network: nn.Module) -> torch.device:
    """Where a network's first parameter is; the CPU without any.

    Example:
        >>> device_of(nn.Linear(2, 1))
        device(type='cpu')
    """
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


@contextmanager
def measuring(network: nn.Module) -> Iterator[None]:
    """Within this context a network is in evaluation mode, and gradients can be taken, also where Lightning evaluates.

    Inference mode and autocast are off. Afterwards modes and torch's random states are what they were.
    """
    device = device_of(network)
    cuda = [device] if device.type == "cuda" else []
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(devices=cuda),
        in_evaluation(network),
    ):
        yield


def outputs_of(network: nn.Module, inputs: Any, layers: Sequence[str] = (), who: str = "outputs_of") -> Outputs:
    """The logits and the layers' outputs of a batch, with gradient where it is on.

    Args:
        network: any network, or a LightningModule whose `forward` gives logits.
        inputs: a batch of its inputs.
        layers: names as in `network.named_modules()`.
        who: the name that errors begin with.

    Raises:
        ValueError: a layer that the network lacks or does not run; an output that is no logits of at least two classes.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
        >>> outputs_of(network, torch.ones(5, 2), ["1"]).features("1").shape
        torch.Size([5, 4])
    """
    # A compiled network runs as it was compiled, without the hooks.
    plain = getattr(network, "_orig_mod", network)
    with FeatureTap(plain, layers, who, copies=True) as tap:
        logits = logits_of(f"{who}: {type(plain).__name__}", call(plain, inputs))
        activations = tap.latest()
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"{who}: logits of shape {list(logits.shape)} came; give a network whose output is [batch, C] of at least "
            "two classes."
        )
    return Outputs(full_precision(logits), activations)


def input_gradients(
    inputs: Float[Tensor, "batch ..."], values: Callable[[Tensor], Sequence[Float[Tensor, " batch"]]], who: str
) -> list[Float[Tensor, "batch ..."]]:
    """The gradient with respect to the inputs of each of several functions that are computed together.

    No parameter gets a gradient, and no hook of a wrapper for several processes runs.

    Args:
        inputs: [B, ...] floating point.
        values: what computes the functions of the inputs, a number for each sample; no sample's may depend on another.
        who: the name that errors begin with.

    Raises:
        ValueError: inputs that are no floating-point tensor.

    Example:
        >>> input_gradients(torch.tensor([[3.0]]), lambda x: [x[:, 0] ** 2, 2 * x[:, 0]], "example")
        [tensor([[6.]]), tensor([[2.]])]
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(f"{who}: inputs of {kind} came, which have no gradient; give floating-point tensors.")
    with torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        return [torch.autograd.grad(one.sum(), leaf, retain_graph=True)[0] for one in values(leaf)]


def signed_step(
    inputs: Float[Tensor, "batch ..."], gradient: Float[Tensor, "batch ..."], epsilon: float
) -> Float[Tensor, "batch ..."]:
    """``x - ε sign(g)`` with the sign of 0 taken for 1, as the authors of ODIN and of the Mahalanobis detector do.

    Example:
        >>> signed_step(torch.zeros(3), torch.tensor([-2.0, 0.0, 5.0]), 0.5)
        tensor([ 0.5000, -0.5000, -0.5000])
    """
    return inputs - epsilon * torch.where(gradient >= 0, 1.0, -1.0).to(inputs.dtype)
