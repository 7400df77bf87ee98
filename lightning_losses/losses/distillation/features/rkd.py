"""Relational distillation: matches the distances and angles between samples, not the samples' features."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import FeaturePairs, RelationLoss
from lightning_losses.numerics.settings import Weight


def relative_distances(vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
    """Euclidean distances of all pairs, divided by the mean of the nonzero ones."""
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)


def angles(vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch batch"]:
    """The cosine of the angle at i between the directions to j and to k, for every triple."""
    differences = vectors.unsqueeze(0) - vectors.unsqueeze(1)
    # A sample has no direction to itself, and a length of 0 has no second derivative.
    same = (differences == 0).all(dim=-1, keepdim=True)
    directions = F.normalize(differences.masked_fill(same, 1.0), dim=-1).masked_fill(same, 0.0)
    return directions @ directions.mT


class RKD(RelationLoss):
    """Relational distillation: matches the distances and angles between samples, not the samples' features.

    ``w_d huber(d_ij, d'_ij) + w_a huber(cos_ijk, cos'_ijk)``, averaged over all pairs and all triples of the batch,
    with d the distances divided by their mean and cos the cosine of the angle at i between j and k. Rotations, shifts
    and scale do not matter, and student and teacher may differ in dimension.

    Args:
        distance_weight: w_d, at least 0.
        angle_weight: w_a, at least 0.

    Shapes:
        features: [B, D]; teacher_features: [B, D'].

    Returns:
        A scalar; 0 for a batch of one.

    Raises:
        ValueError: shapes or dtypes that do not fit; weights below 0.

    Source:
        Park, Kim, Lu, Cho, 2019, "Relational Knowledge Distillation", arXiv:1904.05068, and its code
        lenscloth/RKD; the weights are mdistiller's.

    Example:
        >>> features = torch.randn(4, 3)
        >>> rotated = 2 * features.flip(1) + 1
        >>> RKD()(features, rotated).item() < 1e-8
        True
    """

    status = "paper"
    evidence = "no golden values; the definition, pair by pair, in its tests"

    distance_weight: Weight = 25.0
    angle_weight: Weight = 50.0

    def measure(self, given: FeaturePairs) -> Float[Tensor, ""]:
        """The weighted sum of both differences."""
        student, teacher = given
        value = self.distance_weight * F.smooth_l1_loss(relative_distances(student), relative_distances(teacher))
        # Angles take B² D memory and B³ D time.
        if self.angle_weight > 0:
            value = value + self.angle_weight * F.smooth_l1_loss(angles(student), angles(teacher))
        return value
