"""Class-balanced loss: each class is weighted by the inverse of its effective number of samples."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_losses.losses.class_prior import ClassCounts, ClassPrior, Smoothing
from lightning_losses.losses.confidence.focal import focal_weight
from lightning_losses.losses.kinds import ClassificationRows, ClassWeightedLoss
from lightning_losses.numerics.probabilities import log_probabilities, softplus
from lightning_losses.numerics.rows import pick, without_class
from lightning_losses.numerics.settings import Bound, NonNegative

EffectiveShare = Annotated[float, Bound(least=0, below=1)]


class ClassBalanced(ClassWeightedLoss):
    """Class-balanced loss: each class is weighted by the inverse of its effective number of samples.

    ``w_y ℓ(logits, y)`` with ``w_c = (1 - β) / (1 - β^n_c)``, scaled to a mean of 1 over the classes: β = 0 weighs all
    classes alike, β near 1 by the inverse of their counts n_c. ℓ is cross-entropy, focal loss, or the sum of every
    class's binary cross-entropy. The callback `DeferredReweighting` lets the weights begin at a later epoch.

    Args:
        class_counts: n, a number of training samples for each class; None where `ClassCounts` counts them.
        beta: β, at least 0 and below 1.
        base_loss: ℓ.
        gamma: the exponent of focal loss, at least 0; its factor is made of the probability without weights.
        smoothing: "clamp" counts a class without samples as 1, "add_one" adds 1 to every count.

    Shapes:
        logits: [..., C]; target: [...] class indices.

    Returns:
        A scalar, or [...] without reduction. With reduction "mean" it is divided by the weights of the kept samples'
        classes, as in torch.

    Raises:
        ValueError: shapes or dtypes that do not fit; a target of probabilities; no class counts, or those of another
            number of classes; options out of range.

    Source:
        Cui, Jia, Lin, Song, Belongie, 2019, "Class-Balanced Loss Based on Effective Number of Samples",
        arXiv:1901.05555. Their code divides by the number of samples; the division by the weights is that of torch and
        of kaidic/LDAM-DRW. A class without samples, which has no effective number, counts as 1, as in timm.

    Example:
        >>> loss = ClassBalanced(class_counts=[100, 10], beta=0.99)
        >>> [round(weight, 4) for weight in loss.class_weights(2).tolist()]
        [0.2621, 1.7379]
        >>> round(loss(torch.zeros(2, 2), torch.tensor([0, 1])).item(), 4)
        0.6931
    """

    status = "paper"
    evidence = "its weights with timm's compute_class_weights, not the authors' code"
    soft_targets = False

    class_counts: ClassCounts | None = None
    beta: EffectiveShare = 0.9999
    base_loss: Literal["cross_entropy", "focal", "binary_cross_entropy"] = "cross_entropy"
    gamma: NonNegative = 2.0
    smoothing: Smoothing = "clamp"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prior = ClassPrior(self._identifier, self.class_counts, self.smoothing)

    def class_weights(self, classes: int) -> Float[Tensor, " classes"] | None:
        """The weight of each class, with a mean of 1."""
        counts = self.prior.smoothed(classes)
        return effective_number_weights(counts, self.beta) if self.reweights else None

    def rows(self, given: ClassificationRows) -> Float[Tensor, "*rows"]:
        """The value of each row."""
        if self.base_loss == "binary_cross_entropy":
            others = softplus(without_class(given.logits, given.target)).sum(dim=-1)
            value = others + softplus(-pick(given.logits, given.target))
        else:
            log_p = pick(log_probabilities(given.logits), given.target)
            value = -log_p if self.base_loss == "cross_entropy" else -focal_weight(log_p, self.gamma) * log_p
        weight = self.class_weights(given.logits.shape[-1])
        return value if weight is None else weight.to(value)[given.target] * value


def effective_number_weights(counts: Float[Tensor, " classes"], beta: float) -> Float[Tensor, " classes"]:
    """``(1 - β) / (1 - β^n)``, scaled to a mean of 1 over the classes.

    Example:
        >>> effective_number_weights(torch.tensor([3.0, 1.0]), 0.5)
        tensor([0.7273, 1.2727])
    """
    # 1 - β^n without the cancellation of two numbers near 1; 1 - β falls out of the scaled weights.
    log_beta = torch.log1p(torch.tensor(beta - 1.0, dtype=counts.dtype)).item()
    weights = -1 / torch.expm1(counts * log_beta)
    return weights / weights.mean()
