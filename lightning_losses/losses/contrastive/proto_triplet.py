"""Prototype triplet loss: a query is nearer to its class's prototype than to the others, by a margin."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassedEmbeddings, EmbeddingLoss
from lightning_losses.numerics.distances import squared_distances
from lightning_losses.numerics.settings import Count, NonNegative
from lightning_losses.numerics.vectors import refuse_powers


class ProtoTriplet(EmbeddingLoss):
    """Prototype triplet loss: a query is nearer to its class's prototype than to the others, by a margin.

    ``mean max(0, d(q, p_y) - min_{c ≠ y} d(q, p_c) + m)`` over the queries q, with ``d = sqrt(|q - p|² + 10⁻⁶)`` of
    embeddings as they are. The first `shots` samples of each class in the batch are its support, and their mean is the
    prototype p_c; the others are the queries. `ClassBalancedSampler` makes such batches.

    Args:
        shots: how many samples of a class make its prototype, at least 1.
        margin: m, at least 0.

    Shapes:
        embeddings: [B, D], used as they are; target: [B] classes of any numbers.

    Returns:
        A scalar; 0 without queries or of one class.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; options out of range; on a CPU and
            under `debug`, embeddings whose squares are too large.

    Source:
        Mendez-Ruiz, Gonzalez-Zapata, Reyes-Amezcua, et al., 2023, "SuSana Distancia is all you need: Enforcing class
        separability in metric learning via two novel distance-based loss functions for few-shot image classification",
        arXiv:2305.09062, and its code maumruiz/FSL-Loss, whose support and queries come as two sets.

    Example:
        >>> embeddings = torch.tensor([[0.0], [4.0], [1.0], [3.0]])
        >>> round(ProtoTriplet()(embeddings, torch.tensor([0, 1, 1, 1])).item(), 4)
        1.25
    """

    status = "confirmed"
    evidence = "maumruiz/FSL-Loss"

    shots: Count = 1
    margin: NonNegative = 0.5

    def measure(self, given: ClassedEmbeddings) -> Float[Tensor, ""]:
        """The mean over queries."""
        refuse_powers(self._identifier, 2, embeddings=given.embeddings)
        alike = given.alike & given.kept.unsqueeze(0) & given.kept.unsqueeze(1)
        # How many samples of its class come before each.
        rank = alike.tril(diagonal=-1).sum(dim=-1)
        support = given.kept & (rank < self.shots)
        # A class's prototype stands in the place of its first sample.
        shares = (alike & support.unsqueeze(0)).to(given.embeddings.dtype)
        prototypes = shares @ given.embeddings / shares.sum(dim=-1, keepdim=True).clamp(min=1)
        stands = (given.kept & (rank == 0)).unsqueeze(0)
        query = (given.kept & (rank >= self.shots)).unsqueeze(-1)
        own, others = query & stands & alike, query & stands & ~alike
        values, counted = prototype_violations(given.embeddings, prototypes, own, others, self.margin)
        return values.sum() / counted.sum().clamp(min=1)


def prototype_violations(
    queries: Float[Tensor, "queries dim"],
    prototypes: Float[Tensor, "prototypes dim"],
    own: Bool[Tensor, "queries prototypes"],
    others: Bool[Tensor, "queries prototypes"],
    margin: float,
) -> tuple[Float[Tensor, " queries"], Bool[Tensor, " queries"]]:
    """``max(0, d(q, own) - min d(q, others) + margin)`` of each query, and which have both kinds; 0 of those without.

    Example:
        >>> own = torch.tensor([[True, False]])
        >>> prototype_violations(torch.tensor([[1.0]]), torch.tensor([[0.0], [3.0]]), own, ~own, 2.0)
        (tensor([1.0000]), tensor([True]))
    """
    counted = own.any(dim=-1) & others.any(dim=-1)
    with torch.no_grad():
        # Which is nearest does not depend on a shift, but the product's rounding does.
        middle = prototypes.mean(dim=0)
        squared = squared_distances(queries - middle, prototypes - middle)
    of_own = own.to(torch.uint8).argmax(dim=-1)
    nearest = squared.masked_fill(~others, torch.inf).argmin(dim=-1)
    # Of the chosen alone, by differences, which lose nothing between vectors that are close.
    to_own, to_nearest = (_distances(queries, prototypes[chosen]) for chosen in (of_own, nearest))
    return torch.relu(to_own - to_nearest + margin) * counted, counted


def _distances(a: Float[Tensor, "rows dim"], b: Float[Tensor, "rows dim"]) -> Float[Tensor, " rows"]:
    return ((a - b).square().sum(dim=-1) + 1e-6).sqrt()
