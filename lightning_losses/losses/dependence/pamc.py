"""PAMC, meta-node contrast: nodes like their neighbours in a graph, clusters by their sums unlike each other."""

from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_embeddings, check_floating
from lightning_losses.numerics.distances import unit_rows
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.regression import refuse_where
from lightning_losses.numerics.rows import check_labels
from lightning_losses.numerics.settings import Bound

# The authors' constant within both logarithms.
_LEAST = 1e-10


class PAMC(Loss):
    """PAMC, meta-node contrast: nodes like their neighbours in a graph, clusters by their sums unlike each other.

    ``-mean_i log Σ_j A_ij e^{t cos(z_i, z_j)} + mean_k log Σ_l e^{t c_kl}`` over nodes i and clusters k, with
    ``c_kl = cos(m_k, m_l)`` for two clusters and 0 for one with itself; m_k is the sum of the embeddings of cluster k.
    Instead of every other node as a negative there is one meta-node a cluster. A graph is a batch: on several processes
    each has graphs of its own.

    Args:
        t: the factor of cosines, an inverse temperature, above 0 and at most 50, since exponentials of more overflow.

    Shapes:
        embeddings: [B, D], a node each; target: [B] the cluster of each, any numbers, without gradient; adjacency:
        [B, B] positive weights of edges, 0 on the diagonal.

    Returns:
        A scalar. A node without edges counts as ``-log 1e-10``.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; a t out of range; on a CPU and under
            `debug`, weights below 0.

    Source:
        Kulatilleke, Portmann, Chandra, 2022, "Efficient block contrastive learning via parameter-free meta-node
        approximation", arXiv:2209.14067, and its code gayanku/PAMC, which adds a Kullback-Leibler divergence of soft
        assignments. The code has no number for a cluster whose embeddings add up to 0, which here has cosines of 0.

    Example:
        >>> embeddings, adjacency = torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> round(PAMC()(embeddings, torch.tensor([0, 1]), adjacency).item(), 4)
        0.6931
    """

    status = "confirmed"
    evidence = "gayanku/PAMC"

    t: Annotated[float, Bound(above=0, most=50)] = 1.0

    def forward(
        self,
        embeddings: Float[Tensor, "nodes dim"],
        target: Int[Tensor, " nodes"],
        adjacency: Float[Tensor, "nodes nodes"],
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; see the class."""
        check_embeddings(self._identifier, "embeddings", embeddings)
        check_labels(self._identifier, target, len(embeddings))
        check_floating(self._identifier, "adjacency", adjacency)
        z = full_precision(embeddings)
        if adjacency.shape != (len(z), len(z)):
            raise ValueError(
                f"{self._identifier}: adjacency of shape {list(adjacency.shape)} came with {len(z)} embeddings; give "
                "a row and a column for each."
            )
        if len(z) == 0:
            return z.sum() * 0.0
        refuse_where(adjacency.detach() < 0, self._identifier, "adjacency", adjacency, "of at least 0")
        with torch.autocast(z.device.type, enabled=False):
            edges = full_precision(adjacency.detach()).to(z.dtype)
            near = (edges * (self.t * _cosines(z)).exp()).sum(dim=1)
            return -(near + _LEAST).log().mean() + self._between(z, target)

    def _between(self, z: Float[Tensor, "nodes dim"], target: Int[Tensor, " nodes"]) -> Float[Tensor, ""]:
        """How alike the clusters are."""
        same = (target.unsqueeze(0) == target.unsqueeze(1)).to(z.dtype)
        # Each cluster stands once for each of its nodes, which together count as one.
        share = 1 / same.sum(dim=1)
        cosines = _cosines(same @ z) * (1 - same)
        far = (share * (self.t * cosines).exp()).sum(dim=1)
        return (share * (far + _LEAST).log()).sum() / share.sum()


def _cosines(vectors: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows rows"]:
    """Cosines of all pairs, 0 of a vector with itself."""
    unit = unit_rows(vectors)
    own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return (unit @ unit.mT).masked_fill(own, 0.0)
