"""Similarity-preserving distillation: each sample is as similar to the others in the student as in the teacher."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import FeaturePairs, RelationLoss


class SimilarityPreserving(RelationLoss):
    """Similarity-preserving distillation: each sample is as similar to the others in the student as in the teacher.

    ``|G_s - G_t|² / B²`` in the Frobenius norm. With "rows" G holds the inner products of all pairs of features, each
    row scaled to length 1; with "cosine" the cosines of all pairs. Student and teacher may differ in dimension, and
    rotations do not matter. Neither does the common scale of all features; with "cosine" neither does the scale of each
    one.

    Args:
        similarity: "rows", as in the authors' code, or "cosine".

    Shapes:
        features: [B, D]; teacher_features: [B, D'].

    Returns:
        A scalar; 0 for a batch of one.

    Raises:
        ValueError: shapes or dtypes that do not fit; an unknown similarity.

    Source:
        Tung, Mori, 2019, "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682; "cosine" is this library's.
        Weight 3000 in the paper.

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> round(SimilarityPreserving("cosine")(features, torch.ones(2, 3)).item(), 4)
        0.5
    """

    status = "paper"
    evidence = "no golden values; the definition in its tests"

    similarity: Literal["rows", "cosine"] = "rows"

    def measure(self, given: FeaturePairs) -> Float[Tensor, ""]:
        """The mean squared difference of two matrices of similarities."""
        student, teacher = map(self._similarities, given)
        return (student - teacher).square().mean()

    def _similarities(self, vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
        if self.similarity == "cosine":
            directions = F.normalize(vectors, dim=-1)
            return directions @ directions.mT
        return F.normalize(vectors @ vectors.mT, dim=-1)
