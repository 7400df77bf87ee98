"""Energy: the log-sum-exp of the logits."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.numerics.settings import Temperature
from lightning_losses.out_of_distribution.base import OutOfDistributionScore
from lightning_losses.out_of_distribution.measuring import Outputs


class Energy(OutOfDistributionScore):
    """The free energy of the logits with the other sign: ``T log Σ_c exp(z_c / T)``.

    It is a density of inputs, up to a constant, where the network is read as an energy-based model. A small T gives
    `MaxLogit`; with T → ∞ it tends to the mean logit, but for the constant T log C.

    Args:
        temperature: T, above 0.

    Shapes:
        the network's logits: [B, C]; returns [B].

    Source:
        Liu, Wang, Owens, Li, 2020, "Energy-based Out-of-distribution Detection", arXiv:2010.03759.

    Example:
        >>> Energy()(nn.Identity(), torch.tensor([[3.0, 0.0], [1.0, 1.0]]))
        tensor([3.0486, 1.6931])
    """

    name = "energy"

    temperature: Temperature = 1.0

    def score(self, network: nn.Module, inputs: Any, outputs: Outputs) -> Float[Tensor, " batch"]:
        """The log-sum-exp of the logits."""
        return self.temperature * torch.logsumexp(outputs.logits / self.temperature, dim=1)
