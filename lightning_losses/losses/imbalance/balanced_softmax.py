"""Balanced softmax: cross-entropy of a softmax whose terms are multiplied by the classes' counts."""

from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.class_prior import ClassCounts, ClassPrior, Smoothing
from lightning_losses.losses.kinds import OffsetCrossEntropy


class BalancedSoftmax(OffsetCrossEntropy):
    """Balanced softmax: cross-entropy of a softmax whose terms are multiplied by the classes' counts.

    ``-log(n_y exp z_y / sum_k n_k exp z_k)``, which is `LogitAdjustment` with τ = 1: counts and shares differ by a
    factor that cancels in the softmax. A fused head takes it as a bias, at the cost of cross-entropy.

    Args:
        class_counts: n, a number of training samples for each class; None where `ClassCounts` counts them.
        smoothing: "clamp" counts a class without samples as 1, "add_one" adds 1 to every count; with a count of 0 a
            class could never be learned.

    Shapes:
        logits: [..., C]; target: [...] class indices or [..., C] probabilities.

    Returns:
        A scalar, or [...] without reduction.

    Raises:
        ValueError: shapes or dtypes that do not fit; no class counts, or those of another number of classes.

    Source:
        Ren, Yu, Sheng, Ma, Zhao, Yi, Li, 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition",
        arXiv:2007.10740, without its meta sampler, and its code, jiawei-ren/BalancedMetaSoftmax-Classification, in
        which a class without samples has a count of 0.

    Example:
        >>> import torch
        >>> loss = BalancedSoftmax(class_counts=[3, 1])
        >>> round(loss(torch.zeros(1, 2), torch.tensor([1])).item(), 4)
        1.3863
    """

    status = "confirmed"
    evidence = "jiawei-ren/BalancedMetaSoftmax-Classification"

    class_counts: ClassCounts | None = None
    smoothing: Smoothing = "clamp"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prior = ClassPrior(self._identifier, self.class_counts, self.smoothing)

    def offset(self, classes: int) -> Float[Tensor, " classes"]:
        """What is added to the logits of each row."""
        # Of the shares, which are smaller numbers than the counts.
        return self.prior.log_prior(classes)
