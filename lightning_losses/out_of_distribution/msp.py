"""MSP: how confident the network is of its most probable class."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.settings import Temperature
from lightning_losses.out_of_distribution.base import OutOfDistributionScore, log_confidence
from lightning_losses.out_of_distribution.measuring import Outputs


class MSP(OutOfDistributionScore):
    """The maximum softmax probability, as its logarithm: ``log max_c softmax(z / T)_c``.

    The logarithm orders inputs as the probability does, and goes on doing so where that rounds to 1, from a margin of
    17 in float32. It is the same for logits with a common offset.

    Args:
        temperature: T, above 0.

    Shapes:
        the network's logits: [B, C]; returns [B] float64, at most 0.

    Source:
        Hendrycks, Gimpel, 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
        Networks", arXiv:1610.02136.

    Example:
        >>> import torch
        >>> MSP()(nn.Identity(), torch.tensor([[3.0, 0.0], [1.0, 1.0]])).exp()
        tensor([0.9526, 0.5000], dtype=torch.float64)
    """

    name = "msp"

    temperature: Temperature = 1.0

    def score(self, network: nn.Module, inputs: Any, outputs: Outputs) -> Float[Tensor, " batch"]:
        """The logarithm of the largest probability."""
        return log_confidence(outputs.logits, self.temperature)
