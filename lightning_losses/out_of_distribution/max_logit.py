"""MaxLogit: the largest logit."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.out_of_distribution.base import OutOfDistributionScore
from lightning_losses.out_of_distribution.measuring import Outputs


class MaxLogit(OutOfDistributionScore):
    """The largest logit: ``max_c z_c``.

    Unlike a probability it stays low for inputs that activate no class, even where one class is far ahead of the
    others.

    Shapes:
        the network's logits: [B, C]; returns [B].

    Source:
        Hendrycks et al., 2022, "Scaling Out-of-Distribution Detection for Real-World Settings", arXiv:1911.11132.

    Example:
        >>> import torch
        >>> MaxLogit()(nn.Identity(), torch.tensor([[3.0, 0.0], [1.0, 1.0]]))
        tensor([3., 1.])
    """

    name = "max_logit"

    def score(self, network: nn.Module, inputs: Any, outputs: Outputs) -> Float[Tensor, " batch"]:
        """The largest logit."""
        return outputs.logits.amax(dim=1)
