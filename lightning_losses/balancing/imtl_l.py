"""IMTL-L: learns each term's scale, so that the scaled losses become alike."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_losses.balancing.base import Balancing


class IMTLL(Balancing):
    """IMTL-L, impartial losses: minimises ``Σ exp(s) L - s`` over the network and each term's s, which begins at 0.

    For a constant loss the best scale gives ``exp(s) L = 1``. The s are parameters of the objective: give them to the
    optimizer with the other parameters, without weight decay. They are kept within ±10.

    Source:
        Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang, 2021, "Towards Impartial Multi-Task Learning", ICLR. Confirmed
        against TorchJD 0.18.0.

    Example:
        >>> policy = IMTLL()
        >>> policy.begin(terms=2)
        >>> policy.weights(torch.ones(2)).tolist()
        [1.0, 1.0]
    """

    def begin(self, terms: int) -> None:
        """Create one s for each term."""
        super().begin(terms)
        self.log_scale = nn.Parameter(torch.zeros(terms))

    def weights(self, losses: Float[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """``exp(s)``, with gradient."""
        with torch.no_grad():
            # Put back, not cut in the graph: beyond the bounds there would be no gradient that leads back.
            self.log_scale.clamp_(-10, 10)
        return self.log_scale.exp()

    def penalties(self) -> Float[Tensor, " terms"]:
        """``-s``."""
        return -self.log_scale
