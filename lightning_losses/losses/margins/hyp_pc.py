"""Hyp-PC: pairs of samples of one class come near each other in hyperbolic space."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import ClassedEmbeddings, EmbeddingLoss
from lightning_losses.networks.hyperbolic_head import with_riemannian_gradient
from lightning_losses.numerics.poincare import into_ball, poincare_distance, shortened
from lightning_losses.numerics.settings import Positive


class HypPC(EmbeddingLoss):
    """Hyp-PC: pairs of samples of one class come near each other in hyperbolic space.

    ``sum d(x, x') / N`` over the pairs, with d the distance in the Poincaré ball, into which embeddings are brought
    from 0. The samples of each class are paired in the order of the batch: the first half with the second half, and of
    an odd number the last has no pair. N counts all samples. Weigh it beside a loss that keeps classes apart, such as
    `HypCE`: alone it is smallest where all embeddings are equal.

    Args:
        curvature: of the ball, above 0; near 0, d is twice the Euclidean distance.
        clip_radius: the length that embeddings are cut to first, above 0; None leaves them as they are.
        riemannian_gradient: whether gradients by points of the ball are scaled by its metric, as the authors have it.

    Shapes:
        embeddings: [B, D]; target: [B] class indices, all equal for one class.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        Narayan, Patel, 2024, "Hyp-OC: Hyperbolic One Class Classification for Face Anti-Spoofing", arXiv:2404.14406,
        of one class. Its code, Kartik-3004/hyp-oc, takes arctan where the distance has artanh.

    Example:
        >>> loss = HypPC(curvature=1.0)
        >>> round(loss(torch.tensor([[0.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 0])).item(), 4)
        0.5
    """

    status = "paper"
    evidence = "the formula on the Möbius sums of Kartik-3004/hyp-oc, not the authors' code, which has arctan"

    curvature: Positive = 0.1
    clip_radius: Positive | None = 2.0
    riemannian_gradient: bool = True

    def measure(self, given: ClassedEmbeddings) -> Float[Tensor, ""]:
        """The value of the batch."""
        vectors = given.embeddings if self.clip_radius is None else shortened(given.embeddings, self.clip_radius)
        points = into_ball(vectors, self.curvature)
        if self.riemannian_gradient:
            points = with_riemannian_gradient(points, self.curvature)
        alike = given.alike & given.kept.unsqueeze(0) & given.kept.unsqueeze(1)
        place, half = alike.tril(diagonal=-1).sum(dim=1), alike.sum(dim=1) // 2
        match = alike & (place.unsqueeze(0) == (place + half).unsqueeze(1)) & (place < half).unsqueeze(1)
        other = points.index_select(0, match.to(torch.int64).argmax(dim=1))
        # What is not a number shows, also without a pair.
        values = torch.where(match.any(dim=1), poincare_distance(points, other, self.curvature), 0 * points.sum(dim=1))
        return values.sum() / given.kept.sum().clamp(min=1)
