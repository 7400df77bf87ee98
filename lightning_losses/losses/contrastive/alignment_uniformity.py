"""Alignment and uniformity: two views of a sample near each other, and all embeddings spread over the sphere."""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.metrics.alignment_uniformity import alignment, uniformity
from lightning_losses.numerics.checks import check_embeddings
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import Bound, Positive, Weight


class AlignmentUniformity(Loss):
    """Alignment and uniformity: two views of a sample near each other, and all embeddings spread over the sphere.

    ``λ_a mean |x - y|^α + λ_u (u(x) + u(y)) / 2`` with ``u(x) = log mean_{i != j} exp(-t |x_i - x_j|²)``, x and y being
    the two views' embeddings scaled to length 1: what a contrastive loss tends to with many negatives, without a
    temperature. Its parts are `lightning_losses.metrics.alignment` and `uniformity`; no matrix of all pairs is kept.
    Batch-coupled.

    Args:
        power: α, at least 1.
        t: above 0.
        alignment_weight: λ_a, at least 0.
        uniformity_weight: λ_u, at least 0.

    Shapes:
        embeddings, embeddings_b: [B, D], not normalised.

    Returns:
        A scalar. A batch of one has no uniformity: that part is 0.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        Wang, Isola, 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere", arXiv:2005.10242, and its code ssnl/align_uniform.

    Example:
        >>> embeddings = torch.tensor([[2.0, 0.0], [-1.0, 0.0]])
        >>> round(AlignmentUniformity()(embeddings, 3 * embeddings).item(), 4)
        -8.0
    """

    status = "confirmed"
    evidence = "ssnl/align_uniform"

    batch_coupled = True

    power: Annotated[float, Bound(least=1)] = 2.0
    t: Positive = 2.0
    alignment_weight: Weight = 1.0
    uniformity_weight: Weight = 1.0

    def forward(
        self, embeddings: Float[Tensor, "batch dim"], embeddings_b: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; see the class."""
        for name, view in (("embeddings", embeddings), ("embeddings_b", embeddings_b)):
            check_embeddings(self._identifier, name, view)
        if embeddings.shape != embeddings_b.shape:
            raise ValueError(
                f"{self._identifier}: embeddings of shape {list(embeddings.shape)} came with embeddings_b of shape "
                f"{list(embeddings_b.shape)}; give two views of the same samples."
            )
        x = full_precision(embeddings)
        y = full_precision(embeddings_b).to(x.dtype)
        if len(x) == 0:
            return (x.sum() + y.sum()) * 0.0
        with torch.autocast(x.device.type, enabled=False):
            value = self.alignment_weight * alignment(x, y, power=self.power)
            if len(x) > 1:
                value = value + self.uniformity_weight * (uniformity(x, t=self.t) + uniformity(y, t=self.t)) / 2
            return value
