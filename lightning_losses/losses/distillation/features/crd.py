"""Contrastive representation distillation, batch form: each student feature picks its teacher's out of the batch."""

from dataclasses import field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.losses.distillation.features.embedding import embedded, linear_embedding
from lightning_losses.numerics.checks import check_tensor, check_vectors
from lightning_losses.numerics.probabilities import full_precision
from lightning_losses.numerics.settings import Count, Temperature
from lightning_losses.similarities import partner_cross_entropy


def symmetric_info_nce(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    target: Int[Tensor, " batch"] | None = None,
    temperature: float = 0.07,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """The cross-entropy of picking each vector's partner, in both directions; other vectors of its class are left out.

    A vector whose target is `ignore_index` neither picks nor is picked.
    """
    a, b = full_precision(a), full_precision(b)
    if len(a) == 0:
        return a.sum() * 0.0 + b.sum() * 0.0
    with torch.autocast(a.device.type, enabled=False):
        a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1).to(a.dtype)
        kept = None if target is None else target != ignore_index
        return partner_cross_entropy(a, b, scale=1 / temperature, target=target, kept=kept)


class CRD(Loss):
    """Contrastive representation distillation, batch form: each student feature picks its teacher's out of the batch.

    ``InfoNCE(a, b) + InfoNCE(b, a)``, with a and b linear embeddings of the student's and the teacher's features,
    scaled to length 1, and ``InfoNCE(a, b) = -log(exp(a_i·b_i / τ) / sum_j exp(a_i·b_j / τ))``, j over the sample
    itself and the samples of other classes, averaged over the batch. Both embeddings belong to the loss, and are
    trained and saved with it.

    This is not the authors' estimator: their negatives are 16384 entries of a memory of the whole data set. Here the
    negatives are the rest of the batch of all processes.

    Args:
        embedding_dim: dimension of the embeddings, at least 1.
        temperature: τ, above 0.
        feature_dim: D, at least 1; None takes it from the first batch.
        teacher_dim: D', at least 1; None takes it from the first batch.
        ignore_index: samples with this target are ignored, and are not negatives of the others.

    Shapes:
        features: [B, D]; teacher_features: [B, D']; target (optional; without it all other samples are negatives): [B].

    Returns:
        A scalar; 0 for a batch of one.

    Raises:
        ValueError: shapes or dtypes that do not fit; options out of range.

    Source:
        After Tian, Krishnan, Isola, 2020, "Contrastive Representation Distillation", arXiv:1910.10699, and its code
        HobbitLong/RepDistiller (128 dimensions, temperature 0.07, weight 0.8).

    Example:
        >>> loss = CRD(embedding_dim=4)
        >>> loss(torch.randn(1, 3), torch.randn(1, 5)).item()
        0.0
    """

    batch_coupled = True
    status = "experimental"
    evidence = "no golden values: negatives come from the batch, not from a memory bank; the definition in its tests"

    embedding_dim: Count = 128
    temperature: Temperature = 0.07
    feature_dim: Count | None = None
    teacher_dim: Count | None = None
    ignore_index: int = field(default=-100, kw_only=True)
    student_embedding: nn.Linear = field(init=False)
    teacher_embedding: nn.Linear = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.student_embedding = linear_embedding(self.feature_dim, self.embedding_dim)
        self.teacher_embedding = linear_embedding(self.teacher_dim, self.embedding_dim)

    def forward(
        self,
        features: Float[Tensor, "batch dim"],
        teacher_features: Float[Tensor, "batch teacher_dim"],
        target: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Check, embed and evaluate; see the class."""
        check_vectors(self._identifier, features, teacher_features)
        if target is not None:
            check_tensor(self._identifier, "target", target)
            if target.shape != features.shape[:1] or target.is_floating_point():
                raise ValueError(
                    f"{self._identifier}: target of shape {list(target.shape)} and dtype {target.dtype} came with "
                    f"{len(features)} samples; give [B] class indices, or none."
                )
            if target.dtype != torch.int64:
                raise ValueError(f"{self._identifier}: target has dtype {target.dtype}; give int64 class indices.")
            ignored = (target == self.ignore_index).unsqueeze(-1)
            features, teacher_features = (x.masked_fill(ignored, 0.0) for x in (features, teacher_features))
        return symmetric_info_nce(
            embedded(self._identifier, "features", features, self.student_embedding),
            embedded(self._identifier, "teacher_features", teacher_features.detach(), self.teacher_embedding),
            target,
            self.temperature,
            self.ignore_index,
        )
