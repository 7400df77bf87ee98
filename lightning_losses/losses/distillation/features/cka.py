"""CKA distillation: the batch's similarity structure in the student is aligned with that in the teacher."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.kinds import FeaturePairs, RelationLoss
from lightning_losses.numerics.divergences import at_least_zero


class CKA(RelationLoss):
    """CKA distillation: the batch's similarity structure in the student is aligned with that in the teacher.

    ``1 - |Y^T X|² / (|X^T X| |Y^T Y|)`` in Frobenius norms, with X and Y the student's and the teacher's features minus
    their mean over the batch. Rotations, shifts and scale do not matter, and the networks may differ in dimension.

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

    status = "paper"
    evidence = "no golden values; the definition in its tests"

    def measure(self, given: FeaturePairs) -> Float[Tensor, ""]:
        """One minus the alignment, which is 0 if the features of either network are constant."""
        student, teacher = (
            centred @ centred.mT for centred in (vectors - vectors.mean(dim=0, keepdim=True) for vectors in given)
        )
        scale = student.norm() * teacher.norm()
        return at_least_zero(1 - (student * teacher).sum() / torch.where(scale > 0, scale, 1.0))
