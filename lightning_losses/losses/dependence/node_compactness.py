"""Node compactness: each node provably nearer to its own second view than to other nodes', when edges are dropped."""

from dataclasses import field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.reduction import Reduction, reduce


class NodeCompactness(Loss):
    """Node compactness: each node provably nearer to its own second view than to other nodes', when edges are dropped.

    ``mean_i log(1 + e^{-s_i})`` with s_i a lower bound, over the graphs that drop some edges, of how much more node i's
    embedding is like its own second view than like those of others: `GraphNetwork.compactness` computes it. It stands
    beside a contrastive loss, both with a weight of one half in the authors' runs. Experimental.

    Args:
        reduction: "mean" over the nodes, "sum", or "none".

    Shapes:
        compactness: [B], a number a node; those of both views one after the other where there are two.

    Returns:
        A scalar, or [B] without reduction; 0 without nodes.

    Raises:
        ValueError: another shape or dtype.

    Source:
        Yu, Wang, Zhang, Liu, Shi, 2023, "Provable Training for Graph Contrastive Learning", arXiv:2309.13944.

    Example:
        >>> round(NodeCompactness()(torch.tensor([0.0, 0.0])).item(), 4)
        0.6931
    """

    status = "experimental"
    evidence = "no golden values: the score of the authors' code is no lower bound; tests show that this one is"

    reduction: Reduction = field(default="mean", kw_only=True)

    def forward(self, compactness: Float[Tensor, " nodes"]) -> Float[Tensor, "..."]:
        """Evaluate the loss; see the class."""
        check_floating(self._identifier, "compactness", compactness)
        if compactness.ndim != 1:
            raise ValueError(
                f"{self._identifier}: compactness of shape {list(compactness.shape)} came; give a number a node."
            )
        scores = full_precision(compactness)
        with torch.autocast(scores.device.type, enabled=False):
            return reduce(F.softplus(-scores), self.reduction)
