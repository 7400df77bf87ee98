"""Adds adaptive noise to the outputs of some layers, while it is asked to."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.adaptive_noise import adaptive_noise


class NoiseInjection:
    """Adds adaptive noise to the outputs of some layers, while it is asked to.

    The base standard deviation is σ² times that of all entries of the layer's output, for the authors' code multiplies
    by σ twice in training. The noise is drawn from torch's global generator, by each process for itself.

    Args:
        layers: the layers by name; their output is the hidden states, or a tuple that begins with them.
        noise_std: σ.
        beta: as in `adaptive_noise`.
        gate: as in `adaptive_noise`.

    Example:
        >>> layer = nn.Identity()
        >>> injection = NoiseInjection({"layer": layer}, noise_std=0.1)
        >>> hidden = torch.tensor([[1.0, 2.0, 4.0]])
        >>> with injection.injecting():
        ...     noisy = layer(hidden)
        >>> bool((noisy != hidden).any()), bool((layer(hidden) == hidden).all())
        (True, True)
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], noise_std: float = 0.1, beta: float = 0.1, gate: float = 1.0
    ) -> None:
        self.layers = dict(layers)
        self.noise_std, self.beta, self.gate = noise_std, beta, gate

    @contextmanager
    def injecting(self) -> Iterator[None]:
        """Within this context the layers' outputs are noisy."""
        handles = [layer.register_forward_hook(self._noisy) for layer in self.layers.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def noise(self, hidden: Float[Tensor, "... tokens width"], power: int = 2) -> Float[Tensor, "... tokens width"]:
        """Noise for hidden states; `power` is that of σ, 1 where layers are compared."""
        std = self.noise_std**power * hidden.detach().float().std()
        return adaptive_noise(hidden, torch.randn_like(hidden), std, beta=self.beta, gate=self.gate)

    def _noisy(self, layer: nn.Module, given: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        noisy = hidden + self.noise(hidden).to(hidden.dtype)
        return (noisy, *output[1:]) if isinstance(output, tuple) else noisy
