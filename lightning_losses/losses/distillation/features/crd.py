"""Contrastive representation distillation, batch form: each student feature picks its teacher's out of the batch."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_count, check_floating, check_temperature
from lightning_losses.numerics.probabilities import full_precision


def crd_loss(
    embeddings: Float[Tensor, "batch dim"],
    teacher_embeddings: Float[Tensor, "batch dim"],
    target: Int[Tensor, " batch"] | None = None,
    *,
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE between embeddings of student and teacher, either of which may learn; see `CRD`."""
    check_temperature("crd", temperature)
    for name, tensor in (("features", embeddings), ("teacher_features", teacher_embeddings)):
        check_floating("crd", name, tensor)
        if tensor.shape != embeddings.shape or tensor.ndim != 2:
            raise ValueError(f"crd: embedded {name} of shape {list(tensor.shape)} came; give both the same [B, D].")
    if target is not None and (target.shape != embeddings.shape[:1] or target.is_floating_point()):
        raise ValueError(
            f"crd: target of shape {list(target.shape)} and dtype {target.dtype} came with {len(embeddings)} samples; "
            "give [B] class indices, or none."
        )
    student, teacher = full_precision(embeddings), full_precision(teacher_embeddings)
    if len(student) == 0:
        return student.sum() * 0.0 + teacher.sum() * 0.0
    with torch.autocast(embeddings.device.type, enabled=False):
        scores = F.normalize(student, dim=-1) @ F.normalize(teacher, dim=-1).to(student.dtype).mT / temperature
    own = torch.arange(len(scores), device=scores.device)
    if target is not None:
        # Others of the class are no negatives.
        alike = (target.unsqueeze(0) == target.unsqueeze(1)) & (own.unsqueeze(0) != own.unsqueeze(1))
        scores = scores.masked_fill(alike, -torch.inf)
    return F.cross_entropy(scores, own) + F.cross_entropy(scores.mT, own)


class CRD(Loss):
    """Contrastive representation distillation, batch form: each student feature picks its teacher's out of the batch.

    ``InfoNCE(a, b) + InfoNCE(b, a)``, with a and b linear embeddings of the student's and the teacher's features,
    scaled to length 1, and ``InfoNCE(a, b) = -log(exp(a_i·b_i / τ) / sum_j exp(a_i·b_j / τ))``, j over the sample
    itself and those of other classes, averaged over the batch. The loss owns both embeddings, which train and are saved
    with it.

    This is not the authors' estimator, whose negatives are 16384 entries of a memory of the whole data set: here they
    are the rest of the batch, of all processes.

    Args:
        embedding_dim: of the embeddings, at least 1.
        temperature: τ, above 0.
        feature_dim: D; None takes it from the first batch.
        teacher_dim: D'; None takes it from the first batch.

    Shapes:
        features: [B, D]; teacher_features: [B, D']; target (optional; without it all others are negatives): [B].

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

    def __init__(
        self,
        embedding_dim: int = 128,
        temperature: float = 0.07,
        feature_dim: int | None = None,
        teacher_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_count("crd", "embedding_dim", embedding_dim)
        check_temperature("crd", temperature)
        self.embedding_dim = embedding_dim
        self.temperature = temperature
        self.student_embedding = _linear(feature_dim, embedding_dim)
        self.teacher_embedding = _linear(teacher_dim, embedding_dim)

    def forward(
        self,
        features: Float[Tensor, "batch dim"],
        teacher_features: Float[Tensor, "batch teacher_dim"],
        target: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        for name, tensor in (("features", features), ("teacher_features", teacher_features)):
            check_floating("crd", name, tensor)
            if tensor.ndim != 2 or len(tensor) != len(features):
                raise ValueError(
                    f"crd: {name} of shape {list(tensor.shape)} came; give vectors [B, D], of the same samples for "
                    "both."
                )
        return crd_loss(
            self.student_embedding(features.to(self.student_embedding.weight.dtype)),
            self.teacher_embedding(teacher_features.detach().to(self.teacher_embedding.weight.dtype)),
            target,
            temperature=self.temperature,
        )


def _linear(dim: int | None, embedding_dim: int) -> nn.Linear:
    return nn.LazyLinear(embedding_dim) if dim is None else nn.Linear(dim, embedding_dim)
