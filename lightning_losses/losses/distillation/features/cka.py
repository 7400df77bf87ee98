"""CKA distillation: the batch's similarity structure in the student is aligned with that in the teacher."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.base import Loss
from lightning_losses.numerics.checks import check_floating
from lightning_losses.numerics.probabilities import full_precision


def cka_similarity(x: Float[Tensor, "batch dim"], y: Float[Tensor, "batch other"]) -> Float[Tensor, ""]:
    """Linear centred kernel alignment of two sets of vectors for the same samples, in [0, 1]; 0 if one is constant."""
    first, second = (
        centred @ centred.mT for centred in (vectors - vectors.mean(dim=0, keepdim=True) for vectors in (x, y))
    )
    scale = first.norm() * second.norm()
    return (first * second).sum() / torch.where(scale > 0, scale, 1.0)


def cka_loss(
    features: Float[Tensor, "batch dim"], teacher_features: Float[Tensor, "batch teacher_dim"]
) -> Float[Tensor, ""]:
    """One less the linear centred kernel alignment; see `CKA`."""
    for name, tensor in (("features", features), ("teacher_features", teacher_features)):
        check_floating("cka", name, tensor)
        if tensor.ndim != 2 or len(tensor) != len(features):
            raise ValueError(
                f"cka: {name} of shape {list(tensor.shape)} came; give vectors [B, D], of the same samples for both."
            )
    student, teacher = full_precision(features), full_precision(teacher_features.detach())
    if len(student) < 2:
        return student.sum() * 0.0
    with torch.autocast(features.device.type, enabled=False):
        return 1 - cka_similarity(student, teacher.to(student.dtype))


class CKA(Loss):
    """CKA distillation: the batch's similarity structure in the student is aligned with that in the teacher.

    ``1 - |Y^T X|² / (|X^T X| |Y^T Y|)`` in Frobenius norms, with X and Y the student's and the teacher's features less
    their mean over the batch. It is blind to rotations, shifts and scale, and the networks may differ in dimension.

    Args:
        None; it has no options.

    Shapes:
        features: [B, D]; teacher_features: [B, D'].

    Returns:
        A scalar in [0, 1]; 0 for a batch of one.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Source:
        Kornblith, Norouzi, Lee, Hinton, 2019, "Similarity of Neural Network Representations Revisited",
        arXiv:1905.00414; as a loss for distillation in Saha, Bialkowski, Khalifa, 2022, "Distilling Representational
        Similarity using Centered Kernel Alignment (CKA)", BMVC.

    Example:
        >>> features = torch.randn(4, 3)
        >>> CKA()(features, 2 * features.flip(1) + 1).item() < 1e-6
        True
    """

    batch_coupled = True
    status = "paper"
    evidence = "no golden values; the definition in its tests"

    def forward(
        self, features: Float[Tensor, "batch dim"], teacher_features: Float[Tensor, "batch teacher_dim"]
    ) -> Float[Tensor, ""]:
        """Evaluate the loss; the class documents it."""
        return cka_loss(features, teacher_features)
