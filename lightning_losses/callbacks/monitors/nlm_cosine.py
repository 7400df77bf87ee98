"""Watches naive loss minimisation: the part of the descent direction that only rescales the weights."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.callbacks.monitors.parameters import GradientMonitor
from lightning_losses.parallel.sharding import whole_dots
from lightning_losses.plots.grokking import value_curves
from lightning_losses.plots.style import Figure


@torch.no_grad()
def nlm_cosine(
    weights: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Float[Tensor, ""], Float[Tensor, " tensors"]]:
    """``-<g, w> / (|g| |w|)`` of the concatenation of all tensors, and of each tensor.

    At 1 a descent step only scales the weights up. A norm of 0 gives 0.

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697,
        definition 5; the sign is ours.

    Example:
        >>> whole, each = nlm_cosine([torch.tensor([1.0, 0.0])], [torch.tensor([-2.0, 0.0])])
        >>> whole.item(), each.tolist()
        (1.0, [1.0])
    """
    products = whole_dots([*weights, *weights, *gradients], [*gradients, *weights, *gradients])
    along, size, length = products.reshape(3, -1)
    return _cosine(along.sum(), size.sum(), length.sum()), _cosine(along, size, length)


def _cosine(along: Tensor, size: Tensor, length: Tensor) -> Tensor:
    norms = size.sqrt() * length.sqrt()
    return torch.where(norms == 0, 0.0, -along / torch.where(norms == 0, 1.0, norms))


class NLMCosine(GradientMonitor):
    """Logs the cosine between the descent direction and the weights, of the whole network and of each parameter.

    It is near 0 at the start, and tends to 1 once a network has memorised and only scales itself up. Gradients are
    taken after accumulation, averaging and unscaling, and before clipping. In the trainer's list it must come before
    `OrthogonalGradient` and `Grokfast`, which change the gradients.

    Cost: three products over the parameters, every n steps.

    Args:
        include, exclude, every_n_steps, folder: see `ParameterMonitor`.

    Raises:
        ValueError: patterns that match nothing; a place after the callbacks named above; FSDP1 or DeepSpeed.

    Source:
        Prieto, Barsbey, Mediano, Birdal, 2025, "Grokking at the Edge of Numerical Stability", arXiv:2501.04697.

    Example:
        >>> NLMCosine(every_n_steps=50).name
        'nlm_cosine'
    """

    name = "nlm_cosine"

    def measure(self, weights: list[nn.Parameter], gradients: list[Any]) -> tuple[Tensor, Tensor]:
        """The cosines."""
        return nlm_cosine(weights, gradients)

    def figure(self) -> Figure:
        """The cosines over steps."""
        return value_curves(self.curves(), ylabel="cosine of -gradient and weights", highlight="all")
