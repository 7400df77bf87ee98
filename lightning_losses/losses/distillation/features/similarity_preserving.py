"""Similarity-preserving distillation: each sample is as similar to the others in the student as in the teacher."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_choice, check_floating
from lightning_losses.numerics.probabilities import full_precision

Similarity = Literal["rows", "cosine"]


def similarity_matrix(
    vectors: Float[Tensor, "batch dim"], similarity: Similarity = "rows"
) -> Float[Tensor, "batch batch"]:
    """Inner products of all pairs, each row scaled to length 1 ("rows"), or cosines of all pairs ("cosine")."""
    if similarity == "cosine":
        directions = F.normalize(vectors, dim=-1)
        return directions @ directions.mT
    return F.normalize(vectors @ vectors.mT, dim=-1)


def similarity_preserving_loss(
    features: Float[Tensor, "batch dim"],
    teacher_features: Float[Tensor, "batch teacher_dim"],
    *,
    similarity: Similarity = "rows",
) -> Float[Tensor, ""]:
    """The mean squared difference of two similarity matrices; see `SimilarityPreserving`."""
    check_choice("similarity_preserving", "similarity", similarity, Similarity)
    for name, tensor in (("features", features), ("teacher_features", teacher_features)):
        check_floating("similarity_preserving", name, tensor)
        if tensor.ndim != 2 or len(tensor) != len(features):
            raise ValueError(
                f"similarity_preserving: {name} of shape {list(tensor.shape)} came; give vectors [B, D], of the same "
                "samples for both."
            )
    student = full_precision(features)
    teacher = full_precision(teacher_features.detach()).to(student.dtype)
    with torch.autocast(features.device.type, enabled=False):
        difference = similarity_matrix(student, similarity) - similarity_matrix(teacher, similarity)
    return difference.square().sum() / max(difference.numel(), 1)


class SimilarityPreserving(Loss):
    """Similarity-preserving distillation: each sample is as similar to the others in the student as in the teacher.

    ``|G_s - G_t|² / B²`` in the Frobenius norm. With "rows" G holds the inner products of all pairs of features, each
    row scaled to length 1; with "cosine" the cosines of all pairs. Student and teacher may differ in dimension, and
    rotations do not matter; nor does the scale of all features together, with "cosine" not even of each.

    Args:
        similarity: "rows" as the authors have it, or "cosine".

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
        >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> round(SimilarityPreserving("cosine")(features, torch.ones(2, 3)).item(), 4)
        0.5
    """

    batch_coupled = True
    status = "paper"
    evidence = "no golden values; the definition in its tests"

    def __init__(self, similarity: Similarity = "rows") -> None:
        super().__init__()
        check_choice("similarity_preserving", "similarity", similarity, Similarity)
        self.similarity: Similarity = similarity

    def forward(
        self, features: Float[Tensor, "batch dim"], teacher_features: Float[Tensor, "batch teacher_dim"]
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        return similarity_preserving_loss(features, teacher_features, similarity=self.similarity)
